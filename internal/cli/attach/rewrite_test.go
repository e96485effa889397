package attach

import (
	"net/url"
	"testing"
)

func TestRewrite(t *testing.T) {
	svc, err := url.Parse("https://llm.example.com/proxy/services/main/llm/")
	if err != nil {
		t.Fatal(err)
	}
	l := newLinks("203.0.113.17", map[int]Link{
		8888: {Local: 9000, Query: map[string]string{"token": "x"}},
		80:   {Local: 80},
		8000: {Service: svc},
	})
	for in, want := range map[string]string{
		"open http://localhost:8888 now\r\n":             "open http://127.0.0.1:9000?token=x now\r\n",
		"http://0.0.0.0:8888/lab?a=1":                    "http://127.0.0.1:9000/lab?a=1&token=x",
		"http://203.0.113.17:80/":                        "http://127.0.0.1/",
		"http://localhost:8000/v1":                       "https://llm.example.com/proxy/services/main/llm/v1",
		"http://localhost:8000/proxy/services/main/llm/": "https://llm.example.com/proxy/services/main/llm/",
		"http://localhost:9999/a http://other:8888":      "http://localhost:9999/a http://other:8888",
		"\x1b[1mhttp://127.0.0.1:80/x\x1b[0m \xff":       "\x1b[1mhttp://127.0.0.1/x\x1b[0m \xff",
	} {
		if got := string(l.Rewrite([]byte(in))); got != want {
			t.Errorf("Rewrite(%q) = %q, want %q", in, got, want)
		}
	}
}
