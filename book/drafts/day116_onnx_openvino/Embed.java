import ai.onnxruntime.OnnxTensor;
import ai.onnxruntime.OrtEnvironment;
import ai.onnxruntime.OrtException;
import ai.onnxruntime.OrtSession;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.util.Arrays;
import java.util.List;
import java.util.Map;

/**
 * Reads sentences as token ids, one sentence a line, from standard input; prints one embedding a line.
 *
 * <p>java -cp onnxruntime.jar:. Embed model.onnx &lt; ids.txt
 */
public final class Embed {

    /** One padded batch: ids and mask, both of shape (B, n). */
    record Batch(long[][] ids, long[][] mask) {

        /** Pads with id 0 and mask 0 to the longest sentence. */
        static Batch of(List<long[]> sentences) {
            int longest = sentences.stream().mapToInt(s -> s.length).max().orElseThrow();
            long[][] ids = new long[sentences.size()][longest];
            long[][] mask = new long[sentences.size()][longest];
            for (int row = 0; row < ids.length; row++) {
                long[] sentence = sentences.get(row);
                System.arraycopy(sentence, 0, ids[row], 0, sentence.length);
                Arrays.fill(mask[row], 0, sentence.length, 1L);
            }
            return new Batch(ids, mask);
        }
    }

    /** The embeddings of a batch, of shape (B, d). The session may be shared by many threads. */
    static float[][] embed(OrtEnvironment env, OrtSession session, Batch batch) throws OrtException {
        try (OnnxTensor ids = OnnxTensor.createTensor(env, batch.ids());
                OnnxTensor mask = OnnxTensor.createTensor(env, batch.mask());
                OrtSession.Result result =
                        session.run(Map.of("input_ids", ids, "attention_mask", mask))) {
            return (float[][]) result.get("sentence").orElseThrow().getValue();
        }
    }

    public static void main(String[] args) throws OrtException, IOException {
        List<long[]> sentences;
        try (var lines = new BufferedReader(new InputStreamReader(System.in))) {
            sentences = lines.lines().map(Embed::parse).toList();
        }
        OrtEnvironment env = OrtEnvironment.getEnvironment();
        try (var options = new OrtSession.SessionOptions()) {
            options.setIntraOpNumThreads(1);
            try (OrtSession session = env.createSession(args[0], options)) {
                for (float[] row : embed(env, session, Batch.of(sentences))) {
                    System.out.println(Arrays.toString(row));
                }
            }
        }
    }

    private static long[] parse(String line) {
        return Arrays.stream(line.trim().split("\\s+")).mapToLong(Long::parseLong).toArray();
    }
}
