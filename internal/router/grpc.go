package router

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

// Workers that speak gRPC are asked one question without arguments, whose answer has few fields:
// that takes no generated code.

const (
	sglangInfo = "/sglang.grpc.scheduler.SglangScheduler/GetServerInfo"
	vllmInfo   = "/vllm.grpc.engine.VllmEngine/GetServerInfo"
)

func findSGLang(ctx context.Context, to Dial, address string) (Worker, error) {
	fields, err := unary(ctx, to, sglangInfo)
	if err != nil {
		return Worker{}, fmt.Errorf("ask worker %s: %w", address, err)
	}
	var args structpb.Struct
	if err := proto.Unmarshal(fields[1], &args); err != nil {
		return Worker{}, fmt.Errorf("ask worker %s: %w", address, err)
	}
	var port *int
	if n, ok := args.Fields["disaggregation_bootstrap_port"].GetKind().(*structpb.Value_NumberValue); ok {
		whole := int(n.NumberValue)
		port = &whole
	}
	return sglangWorker("grpc", address, args.Fields["disaggregation_mode"].GetStringValue(), port), nil
}

func findVLLM(ctx context.Context, to Dial, address string) (Worker, error) {
	fields, err := unary(ctx, to, vllmInfo)
	if err != nil {
		return Worker{}, fmt.Errorf("ask worker %s: %w", address, err)
	}
	w := Worker{URL: "grpc://" + address, Type: "regular", ConnectionMode: "grpc", RuntimeType: "vllm"}
	if connector := string(fields[6]); connector != "" {
		w.KVConnector = &connector
	}
	if role := string(fields[7]); role != "" {
		w.KVRole = &role
		switch role {
		case "kv_producer":
			w.Type = "prefill"
		case "kv_consumer":
			w.Type = "decode"
		}
	}
	return w, nil
}

// unary calls a method without arguments and gives the fields of the answer that are texts or
// messages, by number.
func unary(ctx context.Context, to Dial, method string) (map[protowire.Number][]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, grpcTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://localhost"+method, bytes.NewReader(make([]byte, 5))) // an empty message
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("TE", "trailers")
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: &protocols, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return to(ctx) }}
	defer transport.CloseIdleConnections()
	res, err := transport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, maxInfo+1))
	if err != nil {
		return nil, err
	}
	code := res.Trailer.Get("Grpc-Status")
	if code == "" {
		code = res.Header.Get("Grpc-Status") // an answer without a message
	}
	if res.StatusCode != http.StatusOK || code != "0" {
		return nil, fmt.Errorf("gRPC status %q, %s", code, res.Trailer.Get("Grpc-Message"))
	}
	if len(data) < 5 || len(data) > maxInfo || data[0] != 0 || int(binary.BigEndian.Uint32(data[1:5])) != len(data)-5 {
		return nil, errors.New("the answer is no message")
	}
	return parse(data[5:])
}

// parse takes a message apart.
func parse(data []byte) (map[protowire.Number][]byte, error) {
	fields := map[protowire.Number][]byte{}
	for len(data) > 0 {
		n, kind, size := protowire.ConsumeTag(data)
		if size < 0 {
			return nil, protowire.ParseError(size)
		}
		data = data[size:]
		if kind == protowire.BytesType {
			value, size := protowire.ConsumeBytes(data)
			if size < 0 {
				return nil, protowire.ParseError(size)
			}
			fields[n], data = value, data[size:]
			continue
		}
		if size = protowire.ConsumeFieldValue(n, kind, data); size < 0 {
			return nil, protowire.ParseError(size)
		}
		data = data[size:]
	}
	return fields, nil
}
