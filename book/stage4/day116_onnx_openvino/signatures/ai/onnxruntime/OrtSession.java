// Only signatures, to compile Embed.java where the real jar is not at hand. See the Java API of ONNX Runtime.
package ai.onnxruntime;

import java.util.Map;
import java.util.Optional;

public class OrtSession implements AutoCloseable {
    public Result run(Map<String, ? extends OnnxTensor> inputs) throws OrtException {
        throw new UnsupportedOperationException();
    }

    @Override
    public void close() throws OrtException {}

    public static class SessionOptions implements AutoCloseable {
        public void setIntraOpNumThreads(int numThreads) throws OrtException {}

        @Override
        public void close() {}
    }

    public static class Result implements AutoCloseable {
        public Optional<OnnxValue> get(String key) {
            throw new UnsupportedOperationException();
        }

        @Override
        public void close() {}
    }
}
