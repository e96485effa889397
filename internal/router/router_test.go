package router

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

// serve is a server for HTTP, or for gRPC without TLS.
func serve(t *testing.T, grpc bool, h http.HandlerFunc) Dial {
	t.Helper()
	srv := httptest.NewUnstartedServer(h)
	if grpc {
		srv.Config.Protocols = new(http.Protocols)
		srv.Config.Protocols.SetUnencryptedHTTP2(true)
	}
	srv.Start()
	t.Cleanup(srv.Close)
	return func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", srv.Listener.Addr().String())
	}
}

// method answers one method of gRPC with a message.
func method(name string, message []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Trailer", "Grpc-Status, Grpc-Message")
		if r.URL.Path != name || r.ProtoMajor != 2 || len(body) != 5 || r.Header.Get("Te") != "trailers" {
			w.Header().Set("Grpc-Status", "12")
			return
		}
		head := make([]byte, 5)
		binary.BigEndian.PutUint32(head[1:], uint32(len(message)))
		_, _ = w.Write(append(head, message...))
		w.Header().Set("Grpc-Status", "0")
	}
}

func TestPlan(t *testing.T) {
	listed := []Listed{{ID: "1", URL: "http://10.0.0.1:80/"}, {ID: "2", URL: "http://10.0.0.2:80"}, {ID: "3", URL: "http://10.0.0.2:80/"}}
	wanted := []Worker{{URL: "http://10.0.0.1:80"}, {URL: "http://10.0.0.3:80"}}
	add, remove := Plan(listed, wanted)
	if diff := cmp.Diff(wanted[1:], add); diff != "" {
		t.Errorf("to add (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(listed[1:], remove); diff != "" {
		t.Errorf("to remove (-want +got):\n%s", diff)
	}
	if add, remove := Plan(listed[:1], wanted[:1]); add != nil || remove != nil {
		t.Errorf("nothing to do, but %v, %v", add, remove)
	}
}

func TestKindOf(t *testing.T) {
	http, grpc := Listed{ConnectionMode: "http", RuntimeType: "sglang"}, Listed{ConnectionMode: "grpc", RuntimeType: "vllm"}
	for name, tt := range map[string]struct {
		listed []Listed
		want   Kind
	}{
		"none":      {nil, Kind{}},
		"all alike": {[]Listed{grpc, grpc}, Kind{"grpc", "vllm"}},
		"mixed":     {[]Listed{http, grpc, http}, Kind{}},
		"mixed 2":   {[]Listed{http, grpc, grpc}, Kind{}},
		"odd":       {[]Listed{{ConnectionMode: "http", RuntimeType: "external"}}, Kind{}},
	} {
		if got := KindOf(tt.listed); got != tt.want {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
}

func TestFind(t *testing.T) {
	args := func(m map[string]any) []byte {
		s, err := structpb.NewStruct(m)
		if err != nil {
			t.Fatal(err)
		}
		data, err := proto.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		return protowire.AppendBytes(protowire.AppendTag(protowire.AppendVarint(protowire.AppendTag(nil, 9, protowire.VarintType), 7), 1, protowire.BytesType), data)
	}
	vllm := func(connector, role string) []byte {
		return protowire.AppendString(protowire.AppendTag(protowire.AppendString(protowire.AppendTag(nil, 6, protowire.BytesType), connector), 7, protowire.BytesType), role)
	}
	says := func(status int, text string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/server_info" {
				status = http.StatusNotFound
			}
			w.WriteHeader(status)
			fmt.Fprint(w, text)
		}
	}
	port, nixl, producer, consumer := 8998, "Nixl", "kv_producer", "kv_consumer"
	const at = "10.0.0.1:80"
	for name, tt := range map[string]struct {
		grpc bool
		h    http.HandlerFunc
		want Worker // none: an error
	}{
		"regular":        {false, says(200, `{"status":"ready","disaggregation_mode":"null","version":"x"}`), Worker{URL: "http://" + at, Type: "regular", ConnectionMode: "http", RuntimeType: "sglang"}},
		"prefill":        {false, says(200, `{"status":"ready","disaggregation_mode":"prefill","disaggregation_bootstrap_port":8998}`), Worker{URL: "http://" + at, Type: "prefill", BootstrapPort: &port, ConnectionMode: "http", RuntimeType: "sglang"}},
		"decode":         {false, says(200, `{"status":"ready","disaggregation_mode":"decode","disaggregation_bootstrap_port":8998}`), Worker{URL: "http://" + at, Type: "decode", ConnectionMode: "http", RuntimeType: "sglang"}},
		"loading":        {false, says(200, `{"status":"initializing"}`), Worker{}},
		"ill":            {false, says(503, `no`), Worker{}},
		"no JSON":        {false, says(200, `<html>`), Worker{}},
		"too much":       {false, says(200, `{"status":"ready","x":"`+strings.Repeat("x", maxInfo)+`"}`), Worker{}},
		"gRPC":           {true, method(sglangInfo, args(map[string]any{"x": []any{1, "a"}})), Worker{URL: "grpc://" + at, Type: "regular", ConnectionMode: "grpc", RuntimeType: "sglang"}},
		"gRPC, prefill":  {true, method(sglangInfo, args(map[string]any{"disaggregation_mode": "prefill", "disaggregation_bootstrap_port": 8998})), Worker{URL: "grpc://" + at, Type: "prefill", BootstrapPort: &port, ConnectionMode: "grpc", RuntimeType: "sglang"}},
		"gRPC, decode":   {true, method(sglangInfo, args(map[string]any{"disaggregation_mode": "decode"})), Worker{URL: "grpc://" + at, Type: "decode", ConnectionMode: "grpc", RuntimeType: "sglang"}},
		"vLLM":           {true, method(vllmInfo, nil), Worker{URL: "grpc://" + at, Type: "regular", ConnectionMode: "grpc", RuntimeType: "vllm"}},
		"vLLM, producer": {true, method(vllmInfo, vllm(nixl, producer)), Worker{URL: "grpc://" + at, Type: "prefill", KVConnector: &nixl, KVRole: &producer, ConnectionMode: "grpc", RuntimeType: "vllm"}},
		"vLLM, consumer": {true, method(vllmInfo, vllm(nixl, consumer)), Worker{URL: "grpc://" + at, Type: "decode", KVConnector: &nixl, KVRole: &consumer, ConnectionMode: "grpc", RuntimeType: "vllm"}},
		"another method": {true, method("/other", nil), Worker{}},
		"no message":     {true, method(sglangInfo, []byte{0xff}), Worker{}},
	} {
		got, err := Find(t.Context(), serve(t, tt.grpc, tt.h), Kind{}, at)
		if (err != nil) != (tt.want.URL == "") {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	// What is known is asked in its way alone.
	if _, err := Find(t.Context(), serve(t, true, method(vllmInfo, nil)), Kind{"grpc", "sglang"}, at); err == nil {
		t.Error("a vLLM was found by the way of SGLang")
	}
}

// smg is a router's own API.
type smg struct{ log []string }

func (s *smg) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	s.log = append(s.log, strings.TrimSpace(r.Method+" "+r.RequestURI+" "+string(body)))
	switch {
	case r.Method == "GET" && r.URL.Path == "/workers":
		fmt.Fprint(w, `{"workers":[{"id":"a/b","url":"http://10.0.0.9:80","connection_mode":"http","runtime_type":"sglang","is_healthy":true,"job_status":null}],"stats":{}}`)
	case strings.Contains(string(body), "busy"):
		w.WriteHeader(http.StatusServiceUnavailable)
	case strings.Contains(string(body), "odd"):
		w.WriteHeader(http.StatusAccepted)
		fmt.Fprint(w, `{"status":"refused"}`)
	default:
		w.WriteHeader(http.StatusAccepted)
		_ = json.NewEncoder(w).Encode(map[string]string{"status": "accepted", "worker_id": "x"})
	}
}

func TestRouter(t *testing.T) {
	s := &smg{}
	to := serve(t, false, s.ServeHTTP)
	list, err := Workers(t.Context(), to)
	if diff := cmp.Diff([]Listed{{"a/b", "http://10.0.0.9:80", "http", "sglang"}}, list); err != nil || diff != "" {
		t.Fatalf("%v (-want +got):\n%s", err, diff)
	}
	port := 8998
	if err := Add(t.Context(), to, Worker{URL: "http://10.0.0.1:80", Type: "prefill", BootstrapPort: &port, ConnectionMode: "http", RuntimeType: "sglang"}); err != nil {
		t.Error(err)
	}
	if err := Remove(t.Context(), to, list[0]); err != nil {
		t.Error(err)
	}
	for _, address := range []string{"http://busy", "http://odd"} {
		if err := Add(t.Context(), to, Worker{URL: address}); err == nil {
			t.Errorf("%s: no error", address)
		}
	}
	want := []string{"GET /workers", `POST /workers {"url":"http://10.0.0.1:80","worker_type":"prefill","bootstrap_port":8998,"connection_mode":"http","runtime_type":"sglang"}`, "DELETE /workers/a%2Fb"}
	if diff := cmp.Diff(want, s.log[:3]); diff != "" {
		t.Errorf("the router was asked (-want +got):\n%s", diff)
	}
	if _, err := Workers(t.Context(), serve(t, false, http.NotFound)); err == nil {
		t.Error("a router without the list has one")
	}
}
