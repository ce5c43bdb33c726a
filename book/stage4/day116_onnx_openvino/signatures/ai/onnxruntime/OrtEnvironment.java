// Only signatures, to compile Embed.java where the real jar is not at hand. See the Java API of ONNX Runtime.
package ai.onnxruntime;

public final class OrtEnvironment implements AutoCloseable {
    public static OrtEnvironment getEnvironment() {
        throw new UnsupportedOperationException();
    }

    public OrtSession createSession(String modelPath, OrtSession.SessionOptions options)
            throws OrtException {
        throw new UnsupportedOperationException();
    }

    @Override
    public void close() {}
}
