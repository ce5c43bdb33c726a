// Only signatures, to compile Embed.java where the real jar is not at hand. See the Java API of ONNX Runtime.
package ai.onnxruntime;

public class OnnxTensor implements OnnxValue {
    public static OnnxTensor createTensor(OrtEnvironment env, Object data) throws OrtException {
        throw new UnsupportedOperationException();
    }

    @Override
    public Object getValue() throws OrtException {
        throw new UnsupportedOperationException();
    }

    @Override
    public void close() {}
}
