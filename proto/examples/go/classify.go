// Command classify tells refusals from answers, with grpc-go and stubs generated from the protocol file.
package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	pb "rejection/inference"
)

// gRPC retries on its own: only when the server refused the work (its queue is full) or could not be reached, three
// attempts at most, and none while more than half of the recent calls fail, so that retries never feed an overload.
const serviceConfig = `{
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
}`

var advice = map[codes.Code]string{
	codes.InvalidArgument:  "the request is at fault: correct it, sending it again will not help",
	codes.NotFound:         "the server runs but has no such model: check --model",
	codes.Unavailable:      "no connection, or the queue is full: check --address, or try again in a while",
	codes.DeadlineExceeded: "no answer in time: allow more with --timeout, or send fewer texts at once",
}

const otherwise = "the server or something before it failed: look at the server's log"

var (
	address = flag.String("address", "127.0.0.1:8001", "`HOST:PORT` of the server")
	model   = flag.String("model", "rejection", "`NAME` of the model")
	timeout = flag.Float64("timeout", 10, "deadline of each request in `SECONDS`")
	batch   = flag.Int("batch", 64, "most `TEXTS` in one request")
	tls     = flag.String("tls", "", "connect by TLS, trusting the PEM certificates in `FILE`")
)

// result is one line of output; Label is the best one, and Score that of the positive one, if the model has one.
type result struct {
	Label      string             `json:"label"`
	Score      *float32           `json:"score,omitempty"`
	Scores     map[string]float32 `json:"scores"`
	TokenCount int32              `json:"token_count"`
	Text       string             `json:"text"`
}

func main() {
	var maxLength *int32
	flag.Func("max-length", "truncate each text to so many `TOKENS`", func(value string) error {
		number, err := strconv.ParseInt(value, 10, 32)
		length := int32(number)
		maxLength = &length
		return err
	})
	flag.Parse()
	if err := run(maxLength); err != nil {
		if failed, ok := status.FromError(err); ok {
			text, known := advice[failed.Code()]
			if !known {
				text = otherwise
			}
			fmt.Fprintf(os.Stderr, "classify: %s: %s\n  %s\n", codeName(failed.Code()), failed.Message(), text)
		} else {
			fmt.Fprintf(os.Stderr, "classify: %v\n", err)
		}
		os.Exit(1)
	}
}

func run(maxLength *int32) error {
	connection, err := dial()
	if err != nil {
		return err
	}
	defer connection.Close()
	client := pb.NewGRPCInferenceServiceClient(connection) // one connection for every call of the process
	labels, err := readLabels(client)
	if err != nil {
		return err
	}
	positive, err := readPositiveLabel(client)
	if err != nil {
		return err
	}
	output := json.NewEncoder(os.Stdout)
	output.SetEscapeHTML(false)
	next := texts(flag.Args())
	for {
		rows, err := take(next, *batch)
		if err != nil || len(rows) == 0 {
			return err
		}
		answer, err := infer(client, inferRequest(rows, maxLength))
		if err != nil {
			return err
		}
		if err := write(output, rows, labels, positive, outputs(answer)); err != nil {
			return err
		}
	}
}

func dial() (*grpc.ClientConn, error) {
	security := grpc.WithInsecure()
	if *tls != "" {
		trusted, err := credentials.NewClientTLSFromFile(*tls, "")
		if err != nil {
			return nil, err
		}
		security = grpc.WithTransportCredentials(trusted)
	}
	return grpc.Dial(*address, security, grpc.WithDefaultServiceConfig(serviceConfig))
}

func infer(client pb.GRPCInferenceServiceClient, request *pb.ModelInferRequest) (*pb.ModelInferResponse, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(*timeout*float64(time.Second)))
	defer cancel()
	return client.ModelInfer(ctx, request)
}

func inferRequest(rows []string, maxLength *int32) *pb.ModelInferRequest {
	shape := []int64{int64(len(rows)), 1}
	request := &pb.ModelInferRequest{
		ModelName:        *model,
		Inputs:           []*pb.ModelInferRequest_InferInputTensor{{Name: "text", Datatype: "BYTES", Shape: shape}},
		Outputs:          []*pb.ModelInferRequest_InferRequestedOutputTensor{{Name: "probabilities"}, {Name: "token_count"}},
		RawInputContents: [][]byte{stringTensor(rows)},
	}
	if maxLength != nil {
		var raw []byte
		for range rows {
			raw = appendUint32(raw, uint32(*maxLength))
		}
		request.Inputs = append(request.Inputs,
			&pb.ModelInferRequest_InferInputTensor{Name: "max_length", Datatype: "INT32", Shape: shape})
		request.RawInputContents = append(request.RawInputContents, raw)
	}
	return request
}

// stringTensor gives each text's length in bytes, uint32 little-endian, then its bytes.
func stringTensor(rows []string) []byte {
	var raw []byte
	for _, text := range rows {
		raw = append(appendUint32(raw, uint32(len(text))), text...)
	}
	return raw
}

func appendUint32(raw []byte, number uint32) []byte {
	var four [4]byte
	binary.LittleEndian.PutUint32(four[:], number)
	return append(raw, four[:]...)
}

// readLabels gives label names by index: the classification extension gives a text's labels as "SCORE:INDEX:LABEL",
// best first.
func readLabels(client pb.GRPCInferenceServiceClient) ([]string, error) {
	request := inferRequest([]string{"label names"}, nil)
	most := &pb.InferParameter{ParameterChoice: &pb.InferParameter_Int64Param{Int64Param: 1000}} // at most so many labels
	request.Outputs[0].Parameters = map[string]*pb.InferParameter{"classification": most}
	answer, err := infer(client, request)
	if err != nil {
		return nil, err
	}
	names := map[int]string{}
	for raw := outputs(answer)["probabilities"]; len(raw) > 0; {
		end := 4 + binary.LittleEndian.Uint32(raw)
		parts := strings.SplitN(string(raw[4:end]), ":", 3)
		index, err := strconv.Atoi(parts[1])
		if err != nil {
			return nil, err
		}
		names[index] = parts[2]
		raw = raw[end:]
	}
	labels := make([]string, len(names))
	for index, name := range names {
		labels[index] = name
	}
	return labels, nil
}

// readPositiveLabel gives the name of the label that means a refusal, empty for a model that has none.
func readPositiveLabel(client pb.GRPCInferenceServiceClient) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(*timeout*float64(time.Second)))
	defer cancel()
	answer, err := client.ModelConfig(ctx, &pb.ModelConfigRequest{Name: *model})
	return answer.GetConfig().GetParameters()["positive_label"].GetStringValue(), err
}

// outputs gives the bytes of each output by name; their order is the server's own.
func outputs(answer *pb.ModelInferResponse) map[string][]byte {
	byName := map[string][]byte{}
	for i, output := range answer.Outputs {
		byName[output.Name] = answer.RawOutputContents[i]
	}
	return byName
}

func write(output *json.Encoder, rows, labels []string, positive string, answer map[string][]byte) error {
	for row, text := range rows {
		one := result{Text: text, Scores: map[string]float32{}}
		best := float32(math.Inf(-1))
		for column, label := range labels {
			at := 4 * (row*len(labels) + column)
			score := math.Float32frombits(binary.LittleEndian.Uint32(answer["probabilities"][at:]))
			one.Scores[label] = score
			if score > best {
				best, one.Label = score, label
			}
			if label == positive {
				one.Score = &score
			}
		}
		one.TokenCount = int32(binary.LittleEndian.Uint32(answer["token_count"][4*row:]))
		if err := output.Encode(one); err != nil {
			return err
		}
	}
	return nil
}

// texts gives the arguments one by one, or without any the lines of standard input, then io.EOF. Bytes as they are,
// which the server checks.
func texts(arguments []string) func() (string, error) {
	if len(arguments) > 0 {
		return func() (string, error) {
			if len(arguments) == 0 {
				return "", io.EOF
			}
			text := arguments[0]
			arguments = arguments[1:]
			return text, nil
		}
	}
	input := bufio.NewReader(os.Stdin)
	return func() (string, error) {
		line, err := input.ReadString('\n')
		if line != "" {
			return strings.TrimSuffix(line, "\n"), nil
		}
		return "", err
	}
}

// take gives the next texts to send, none at the end.
func take(next func() (string, error), size int) ([]string, error) {
	var rows []string
	for len(rows) < size {
		text, err := next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		rows = append(rows, text)
	}
	return rows, nil
}

var wordStart = regexp.MustCompile(`[a-z][A-Z]`)

// codeName spells a status code as every other language does: INVALID_ARGUMENT.
func codeName(code codes.Code) string {
	apart := wordStart.ReplaceAllStringFunc(code.String(), func(pair string) string { return pair[:1] + "_" + pair[1:] })
	return strings.ToUpper(apart)
}
