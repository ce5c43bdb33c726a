import java.io.IOException;
import java.io.PrintStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Iterator;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** Streams two answers: java Client.java http://127.0.0.1:8000 model "a prompt" */
public class Client {
    // The JDK has no JSON parser. Two patterns do here; use a library for more.
    private static final Pattern CONTENT =
            Pattern.compile("\"content\": ?\"((?:[^\"\\\\]|\\\\.)*)\"");
    private static final Pattern REASON =
            Pattern.compile("\"finish_reason\": ?\"(\\w+)\"");

    public static void main(String[] args) throws IOException, InterruptedException {
        var patience = Duration.ofSeconds(5);
        var client = HttpClient.newBuilder().connectTimeout(patience).build();
        read(client, args, Integer.MAX_VALUE); // to its end
        read(client, args, 5); // and once more, leaving early
    }

    private static void read(HttpClient client, String[] args, int most)
            throws IOException, InterruptedException {
        var out = new PrintStream(System.out, true, StandardCharsets.UTF_8);
        var body = "{\"model\": " + quote(args[1])
                + ", \"stream\": true, \"max_tokens\": 120, \"seed\": 7"
                + ", \"messages\": [{\"role\": \"user\", \"content\": "
                + quote(args[2]) + "}]}";
        var address = URI.create(args[0] + "/v1/chat/completions");
        var request = HttpRequest.newBuilder(address)
                .timeout(Duration.ofSeconds(20)) // until the headers are there
                .header("Content-Type", "application/json")
                .POST(BodyPublishers.ofString(body))
                .build();
        var response = client.send(request, BodyHandlers.ofLines()); // as they come
        if (response.statusCode() != 200) {
            response.body().forEach(System.err::println);
            System.exit(1);
        }
        int pieces = 0;
        String reason = null;
        try (var lines = response.body()) { // closing it hangs up
            for (Iterator<String> it = lines.iterator(); it.hasNext(); ) {
                String line = it.next();
                if (line.equals("data: [DONE]")) {
                    out.printf("%n[%d pieces, finish_reason %s]%n", pieces, reason);
                    return;
                }
                Matcher content = CONTENT.matcher(line), end = REASON.matcher(line);
                if (content.find() && !content.group(1).isEmpty()) {
                    out.print(unescape(content.group(1)));
                    out.flush(); // shown now, not at the end
                    if (++pieces == most) {
                        out.printf("%n[left after %d pieces]%n", pieces);
                        return;
                    }
                }
                if (end.find()) {
                    reason = end.group(1);
                }
            }
        }
        System.err.println("the stream was cut off: no [DONE]");
        System.exit(1);
    }

    private static String quote(String text) {
        text = text.replace("\\", "\\\\").replace("\"", "\\\"").replace("\n", "\\n");
        return '"' + text + '"';
    }

    private static String unescape(String json) {
        var text = new StringBuilder();
        for (int i = 0; i < json.length(); i++) {
            char c = json.charAt(i);
            if (c != '\\') {
                text.append(c);
                continue;
            }
            switch (c = json.charAt(++i)) {
                case 'n' -> text.append('\n');
                case 't' -> text.append('\t');
                case 'r' -> text.append('\r');
                case 'b' -> text.append('\b');
                case 'f' -> text.append('\f');
                case 'u' -> {
                    String hex = json.substring(i + 1, i + 5);
                    text.append((char) Integer.parseInt(hex, 16));
                    i += 4;
                }
                default -> text.append(c); // a quote, a backslash, a slash
            }
        }
        return text.toString();
    }
}
