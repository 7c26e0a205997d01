# Tell refusals from answers, with the grpc gem and stubs generated from the protocol file.
require "grpc"
require "json"
require "optparse"

$LOAD_PATH.unshift(File.join(__dir__, "build"))
require "inference_services_pb"

# gRPC retries on its own: only when the server refused the work (its queue is full) or could not be reached, three
# attempts at most, and none while more than half of the recent calls fail, so that retries never feed an overload.
SERVICE_CONFIG = {
  methodConfig: [{
    name: [{ service: "inference.GRPCInferenceService" }],
    retryPolicy: {
      maxAttempts: 3,
      initialBackoff: "0.1s",
      maxBackoff: "1s",
      backoffMultiplier: 2,
      retryableStatusCodes: ["UNAVAILABLE"]
    }
  }],
  retryThrottling: { maxTokens: 10, tokenRatio: 0.1 }
}.freeze

ADVICE = {
  "INVALID_ARGUMENT" => "the request is at fault: correct it, sending it again will not help",
  "NOT_FOUND" => "the server runs but has no such model: check --model",
  "UNAVAILABLE" => "no connection, or the queue is full: check --address, or try again in a while",
  "DEADLINE_EXCEEDED" => "no answer in time: allow more with --timeout, or send fewer texts at once"
}.freeze
OTHERWISE = "the server or something before it failed: look at the server's log".freeze

Options = Struct.new(:address, :model, :timeout, :max_length, :batch, :certificates)

# Asks one server, over one connection for every call.
class Classifier
  def initialize(options)
    @options = options
    certificates = options.certificates
    credentials = certificates ? GRPC::Core::ChannelCredentials.new(certificates) : :this_channel_is_insecure
    settings = { "grpc.service_config" => JSON.generate(SERVICE_CONFIG) }
    @stub = Inference::GRPCInferenceService::Stub.new(options.address, credentials, channel_args: settings)
    @labels = read_labels
    @positive = read_positive_label
  end

  # One hash a text; :label is the best one, and :score that of the positive one, if the model has one.
  def classify(texts)
    answer = infer(request(texts, max_length: @options.max_length))
    rows = answer["probabilities"].unpack("e*").each_slice(@labels.size) # FP32, little-endian
    counts = answer["token_count"].unpack("l<*")
    texts.zip(rows, counts).map do |text, row, count|
      scores = @labels.zip(row).to_h
      {
        label: @labels[row.index(row.max)],
        score: scores[@positive],
        scores: scores,
        token_count: count,
        text: text.dup.force_encoding("UTF-8")
      }.compact
    end
  end

  private

  # Label names by index: the classification extension gives a text's labels as "SCORE:INDEX:LABEL", best first.
  def read_labels
    asking = request(["label names"])
    asking.outputs[0].parameters["classification"] = Inference::InferParameter.new(int64_param: 1000) # at most so many
    raw = infer(asking)["probabilities"]
    names = {}
    until raw.empty?
      size = raw.unpack1("L<")
      _, index, name = raw.byteslice(4, size).force_encoding("UTF-8").split(":", 3)
      names[index.to_i] = name
      raw = raw.byteslice(4 + size..)
    end
    names.sort.map(&:last)
  end

  # Name of the label that means a refusal, nil for a model that has none.
  def read_positive_label
    asking = Inference::ModelConfigRequest.new(name: @options.model)
    parameters = @stub.model_config(asking, deadline: Time.now + @options.timeout).config.parameters
    parameters["positive_label"]&.string_value
  end

  # Bytes of each output by name; their order is the server's own.
  def infer(request)
    answer = @stub.model_infer(request, deadline: Time.now + @options.timeout)
    answer.outputs.map(&:name).zip(answer.raw_output_contents).to_h
  end

  def request(texts, max_length: nil)
    shape = [texts.size, 1]
    request = Inference::ModelInferRequest.new(
      model_name: @options.model,
      inputs: [{ name: "text", datatype: "BYTES", shape: shape }],
      outputs: [{ name: "probabilities" }, { name: "token_count" }],
      # A string tensor: each text's length in bytes, uint32 little-endian, then its bytes.
      raw_input_contents: [texts.map { |text| [text.bytesize].pack("L<") + text.b }.join]
    )
    if max_length
      request.inputs << Inference::ModelInferRequest::InferInputTensor.new(
        name: "max_length", datatype: "INT32", shape: shape
      )
      request.raw_input_contents << ([max_length].pack("l<") * texts.size)
    end
    request
  end
end

# "INVALID_ARGUMENT" for 3.
def code_name(code)
  GRPC::Core::StatusCodes.constants.find { |name| GRPC::Core::StatusCodes.const_get(name) == code }.to_s
end

def parse(arguments)
  options = Options.new("127.0.0.1:8001", "rejection", 10.0, nil, 64, nil)
  OptionParser.new do |parser|
    parser.banner = "usage: classify [options] [TEXT ...]\nWithout a TEXT, each line of standard input is one."
    parser.on("--address HOST:PORT") { |value| options.address = value }
    parser.on("--model NAME") { |value| options.model = value }
    parser.on("--timeout SECONDS", Float, "deadline of each request") { |value| options.timeout = value }
    parser.on("--max-length TOKENS", Integer, "truncate each text") { |value| options.max_length = value }
    parser.on("--batch TEXTS", Integer, "most texts in one request") { |value| options.batch = value }
    parser.on("--tls FILE", "connect by TLS, trusting these PEM certificates") do |value|
      options.certificates = File.read(value)
    end
  end.parse!(arguments)
  options
end

begin
  options = parse(ARGV)
rescue OptionParser::ParseError, SystemCallError => error
  warn "classify: #{error.message}"
  exit 2
end

begin
  # The arguments, or without any the lines of standard input; bytes as they are, which the server checks.
  texts = ARGV.empty? ? $stdin.binmode.each_line("\n", chomp: true) : ARGV.each
  classifier = Classifier.new(options)
  texts.each_slice(options.batch) do |batch|
    classifier.classify(batch).each { |row| puts JSON.generate(row) }
  end
rescue GRPC::BadStatus => error
  name = code_name(error.code)
  warn "classify: #{name}: #{error.details}\n  #{ADVICE.fetch(name, OTHERWISE)}"
  exit 1
end
