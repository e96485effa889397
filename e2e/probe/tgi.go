package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
)

// tgi is a model as Text Generation Inference serves one: it says the text that it got, word by word,
// in capitals, until a stop sequence.
func tgi(addr string) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("POST /generate", func(w http.ResponseWriter, r *http.Request) {
		tokens, ok := generate(w, r, false)
		if !ok {
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"generated_text": strings.Join(tokens, ""), "details": map[string]any{
			"finish_reason": "eos_token", "generated_tokens": len(tokens), "seed": 42, "prefill": []any{map[string]any{"id": 1, "text": "a"}}, "tokens": []any{},
		}})
	})
	mux.HandleFunc("POST /generate_stream", func(w http.ResponseWriter, r *http.Request) {
		tokens, ok := generate(w, r, true)
		if !ok {
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		for i, token := range append(tokens, "</s>") {
			event := map[string]any{"index": i + 1, "token": map[string]any{"id": 1, "text": token, "logprob": -1, "special": i == len(tokens)}}
			if i == len(tokens) {
				event["generated_text"] = strings.Join(tokens, "")
				event["details"] = map[string]any{"finish_reason": "eos_token", "generated_tokens": len(tokens) + 1, "seed": 42, "input_length": 1}
			}
			data, _ := json.Marshal(event)
			fmt.Fprintf(w, "data:%s\n\n", data)
			_ = http.NewResponseController(w).Flush()
		}
	})
	fmt.Println("serving", addr)
	fmt.Println(http.ListenAndServe(addr, mux))
	os.Exit(1)
}

// generate reads a request and returns the words of the answer; it refuses what TGI refuses.
func generate(w http.ResponseWriter, r *http.Request, stream bool) (tokens []string, ok bool) {
	var ask struct {
		Inputs     string
		Parameters struct {
			Stop                []string
			DecoderInputDetails bool `json:"decoder_input_details"`
		}
	}
	if json.NewDecoder(r.Body).Decode(&ask) != nil || ask.Inputs == "" || stream && ask.Parameters.DecoderInputDetails {
		w.WriteHeader(http.StatusUnprocessableEntity)
		fmt.Fprint(w, `{"error":"Input validation error","error_type":"validation"}`)
		return nil, false
	}
	fmt.Printf("asked %q, stop %q\n", ask.Inputs, ask.Parameters.Stop)
	return strings.SplitAfter(strings.ToUpper(ask.Inputs), " "), true
}
