import com.google.gson.Gson;
import com.google.gson.GsonBuilder;
import com.google.protobuf.ByteString;
import inference.GRPCInferenceServiceGrpc;
import inference.InferParameter;
import inference.ModelConfig;
import inference.ModelConfigRequest;
import inference.ModelInferRequest;
import inference.ModelInferRequest.InferInputTensor;
import inference.ModelInferRequest.InferRequestedOutputTensor;
import inference.ModelInferResponse;
import inference.ModelParameter;
import io.grpc.ChannelCredentials;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.TlsChannelCredentials;
import java.io.BufferedInputStream;
import java.io.ByteArrayOutputStream;
import java.io.File;
import java.io.IOException;
import java.io.InputStream;
import java.io.PrintStream;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.TimeUnit;

/** Tells refusals from answers, with grpc-java and stubs generated from the protocol file. */
public final class Classify {
  // gRPC retries on its own: only when the server refused the work (its queue is full) or could not be reached, three
  // attempts at most, and none while more than half of the recent calls fail, so that retries never feed an overload.
  private static final String SERVICE_CONFIG = """
      {
        "methodConfig": [{
          "name": [{"service": "inference.GRPCInferenceService"}],
          "retryPolicy": {
            "maxAttempts": 3,
            "initialBackoff": "0.1s",
            "maxBackoff": "1s",
            "backoffMultiplier": 2,
            "retryableStatusCodes": ["UNAVAILABLE"]
          }
        }],
        "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1}
      }""";

  private static final String USAGE = """
      usage: classify [--address HOST:PORT] [--model NAME] [--timeout SECONDS] [--max-length TOKENS]
                      [--batch TEXTS] [--tls FILE] [TEXT ...]
      Without a TEXT, each line of standard input is one. --tls trusts the PEM certificates in FILE.""";

  private static final Gson GSON = new GsonBuilder().disableHtmlEscaping().create();

  private String address = "127.0.0.1:8001";
  private String model = "rejection";
  private double timeoutSeconds = 10;
  private Integer maxLength;
  private int batch = 64;
  private ChannelCredentials credentials = InsecureChannelCredentials.create();
  private final List<ByteString> arguments = new ArrayList<>();
  private final PrintStream output = new PrintStream(System.out, false, StandardCharsets.UTF_8);
  private GRPCInferenceServiceGrpc.GRPCInferenceServiceBlockingStub stub;

  /** One line of output; label is the best one, and score that of the positive one, null if the model has none. */
  private record Row(String label, Float score, Map<String, Float> scores, int token_count, String text) {}

  public static void main(String[] arguments) throws Exception {
    Classify program = new Classify();
    try {
      program.parse(arguments);
    } catch (IllegalArgumentException | IOException error) {
      System.err.println("classify: " + error.getMessage() + "\n" + USAGE);
      System.exit(2);
    }
    System.exit(program.run());
  }

  @SuppressWarnings("unchecked")
  private int run() throws Exception {
    ManagedChannel channel = Grpc.newChannelBuilder(address, credentials)
        .defaultServiceConfig(GSON.fromJson(SERVICE_CONFIG, Map.class))
        .enableRetry()
        .build();
    try {
      stub = GRPCInferenceServiceGrpc.newBlockingStub(channel); // one connection for every call of the process
      List<String> labels = readLabels();
      String positive = readPositiveLabel();
      Iterator<ByteString> texts = texts();
      while (texts.hasNext()) {
        List<ByteString> rows = new ArrayList<>();
        while (rows.size() < batch && texts.hasNext()) {
          rows.add(texts.next());
        }
        print(rows, labels, positive, infer(request(rows, maxLength).build()));
      }
      return 0;
    } catch (StatusRuntimeException error) {
      Status status = error.getStatus();
      System.err.printf("classify: %s: %s%n  %s%n", status.getCode(), status.getDescription(), advice(status.getCode()));
      return 1;
    } finally {
      output.flush();
      channel.shutdown().awaitTermination(1, TimeUnit.SECONDS);
    }
  }

  /** The stub with a deadline from now on. */
  private GRPCInferenceServiceGrpc.GRPCInferenceServiceBlockingStub timed() {
    return stub.withDeadlineAfter((long) (timeoutSeconds * 1e6), TimeUnit.MICROSECONDS);
  }

  /** Bytes of each output by name; their order is the server's own. */
  private Map<String, ByteBuffer> infer(ModelInferRequest request) {
    ModelInferResponse answer = timed().modelInfer(request);
    Map<String, ByteBuffer> outputs = new LinkedHashMap<>();
    for (int i = 0; i < answer.getOutputsCount(); i++) {
      ByteBuffer raw = answer.getRawOutputContents(i).asReadOnlyByteBuffer();
      outputs.put(answer.getOutputs(i).getName(), raw.order(ByteOrder.LITTLE_ENDIAN));
    }
    return outputs;
  }

  private ModelInferRequest.Builder request(List<ByteString> texts, Integer maxLength) {
    ModelInferRequest.Builder request = ModelInferRequest.newBuilder()
        .setModelName(model)
        .addInputs(input("text", "BYTES", texts.size()))
        .addRawInputContents(stringTensor(texts))
        .addOutputs(InferRequestedOutputTensor.newBuilder().setName("probabilities"))
        .addOutputs(InferRequestedOutputTensor.newBuilder().setName("token_count"));
    if (maxLength != null) {
      ByteBuffer lengths = ByteBuffer.allocate(4 * texts.size()).order(ByteOrder.LITTLE_ENDIAN);
      texts.forEach(text -> lengths.putInt(maxLength));
      request.addInputs(input("max_length", "INT32", texts.size()));
      request.addRawInputContents(ByteString.copyFrom(lengths.flip()));
    }
    return request;
  }

  private static InferInputTensor input(String name, String datatype, int rows) {
    return InferInputTensor.newBuilder().setName(name).setDatatype(datatype).addShape(rows).addShape(1).build();
  }

  /** A string tensor: each text's length in bytes, uint32 little-endian, then its bytes. */
  private static ByteString stringTensor(List<ByteString> texts) {
    ByteArrayOutputStream raw = new ByteArrayOutputStream();
    for (ByteString text : texts) {
      raw.writeBytes(ByteBuffer.allocate(4).order(ByteOrder.LITTLE_ENDIAN).putInt(text.size()).array());
      raw.writeBytes(text.toByteArray());
    }
    return ByteString.copyFrom(raw.toByteArray());
  }

  /** Label names by index: the classification extension gives a text's labels as "SCORE:INDEX:LABEL", best first. */
  private List<String> readLabels() {
    ModelInferRequest.Builder request = request(List.of(ByteString.copyFromUtf8("label names")), null);
    InferParameter most = InferParameter.newBuilder().setInt64Param(1000).build(); // at most so many labels
    request.getOutputsBuilder(0).putParameters("classification", most);
    ByteBuffer raw = infer(request.build()).get("probabilities");
    Map<Integer, String> names = new TreeMap<>();
    while (raw.hasRemaining()) {
      byte[] element = new byte[raw.getInt()];
      raw.get(element);
      String[] parts = new String(element, StandardCharsets.UTF_8).split(":", 3);
      names.put(Integer.valueOf(parts[1]), parts[2]);
    }
    return List.copyOf(names.values());
  }

  /** Name of the label that means a refusal, empty for a model that has none. */
  private String readPositiveLabel() {
    ModelConfigRequest request = ModelConfigRequest.newBuilder().setName(model).build();
    ModelParameter none = ModelParameter.getDefaultInstance();
    ModelConfig config = timed().modelConfig(request).getConfig();
    return config.getParametersOrDefault("positive_label", none).getStringValue();
  }

  private void print(List<ByteString> texts, List<String> labels, String positive, Map<String, ByteBuffer> outputs) {
    ByteBuffer probabilities = outputs.get("probabilities");
    ByteBuffer counts = outputs.get("token_count");
    for (ByteString text : texts) {
      Map<String, Float> scores = new LinkedHashMap<>();
      String best = null;
      for (String label : labels) {
        float score = probabilities.getFloat();
        scores.put(label, score);
        best = best == null || score > scores.get(best) ? label : best;
      }
      Row row = new Row(best, scores.get(positive), scores, counts.getInt(), text.toStringUtf8());
      output.println(GSON.toJson(row)); // which leaves null out
    }
    output.flush();
  }

  /** The arguments, or without any the lines of standard input; bytes as they are, which the server checks. */
  private Iterator<ByteString> texts() throws IOException {
    if (!arguments.isEmpty()) {
      return arguments.iterator();
    }
    InputStream input = new BufferedInputStream(System.in);
    return new Iterator<>() {
      private ByteString line = read();

      @Override
      public boolean hasNext() {
        return line != null;
      }

      @Override
      public ByteString next() {
        ByteString current = line;
        line = read();
        return current;
      }

      private ByteString read() {
        try {
          ByteArrayOutputStream bytes = new ByteArrayOutputStream();
          int next = input.read();
          if (next < 0) {
            return null;
          }
          for (; next >= 0 && next != '\n'; next = input.read()) {
            bytes.write(next);
          }
          return ByteString.copyFrom(bytes.toByteArray());
        } catch (IOException error) {
          throw new UncheckedIOException(error);
        }
      }
    };
  }

  private static String advice(Status.Code code) {
    return switch (code) {
      case INVALID_ARGUMENT -> "the request is at fault: correct it, sending it again will not help";
      case NOT_FOUND -> "the server runs but has no such model: check --model";
      case UNAVAILABLE -> "no connection, or the queue is full: check --address, or try again in a while";
      case DEADLINE_EXCEEDED -> "no answer in time: allow more with --timeout, or send fewer texts at once";
      default -> "the server or something before it failed: look at the server's log";
    };
  }

  private void parse(String[] words) throws IOException {
    Iterator<String> rest = List.of(words).iterator();
    boolean options = true;
    while (rest.hasNext()) {
      String word = rest.next();
      if (!options || !word.startsWith("--")) {
        arguments.add(ByteString.copyFromUtf8(word));
      } else if (word.equals("--")) {
        options = false;
      } else if (!rest.hasNext()) {
        throw new IllegalArgumentException("the option " + word + " lacks a value, or is none");
      } else {
        set(word, rest.next());
      }
    }
  }

  private void set(String option, String value) throws IOException {
    try {
      switch (option) {
        case "--address" -> address = value;
        case "--model" -> model = value;
        case "--timeout" -> timeoutSeconds = Double.parseDouble(value);
        case "--max-length" -> maxLength = Integer.valueOf(value);
        case "--batch" -> batch = Integer.parseInt(value);
        case "--tls" -> credentials = TlsChannelCredentials.newBuilder().trustManager(new File(value)).build();
        default -> throw new IllegalArgumentException("there is no option " + option);
      }
    } catch (NumberFormatException error) {
      throw new IllegalArgumentException(option + " is '" + value + "', not a number", error);
    }
  }
}
