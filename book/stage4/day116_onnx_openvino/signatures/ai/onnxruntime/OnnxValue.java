// Only signatures, to compile Embed.java where the real jar is not at hand. See the Java API of ONNX Runtime.
package ai.onnxruntime;

public interface OnnxValue extends AutoCloseable {
    Object getValue() throws OrtException;

    @Override
    void close();
}
