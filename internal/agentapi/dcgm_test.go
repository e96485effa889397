package agentapi

import (
	"bytes"
	"io"
	"net/http"
	"net/url"
	"testing"
	"time"
)

// What a client wishes is what the agent reads.
func TestWish(t *testing.T) {
	for name, c := range map[string]struct {
		wish Wish
		uri  string
	}{
		"nothing":    {Wish{}, "/v1/events?after=0"},
		"health":     {Wish{Health: time.Minute}, "/v1/events?after=0&health=60"},
		"everything": {Wish{Health: time.Second, DCGM: true}, "/v1/events?after=0&dcgm=1&health=1"},
	} {
		var uri string
		var read Wish
		client := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			uri, read = r.URL.RequestURI(), WishOf(r.URL.Query())
			_, _ = io.WriteString(w, `{"kind":"heartbeat"}`+"\n")
		}))
		if err := client.Events(t.Context(), 0, c.wish, func(Event) error { return nil }); err != io.EOF {
			t.Errorf("%s: %v", name, err)
		}
		if uri != c.uri || read != c.wish {
			t.Errorf("%s: asked for %s, which reads as %+v", name, uri, read)
		}
	}
	for _, odd := range []string{"health=-1&dcgm=yes", "health=x", "health=99999999999999999999", "health=0"} {
		q, err := url.ParseQuery(odd)
		if err != nil {
			t.Fatal(err)
		}
		if got := WishOf(q); got != (Wish{}) {
			t.Errorf("%s reads as %+v", odd, got)
		}
	}
	if got := WishOf(url.Values{"health": {"9000000000000000000"}}); got.Health != 24*time.Hour {
		t.Errorf("the longest time between checks is %v", got.Health)
	}
}

func TestPack(t *testing.T) {
	text := bytes.Repeat([]byte(`DCGM_FI_DEV_GPU_UTIL{gpu="0"} 97`+"\n"), 1000)
	packed := Pack(text)
	got, err := Unpack(packed)
	if err != nil || !bytes.Equal(got, text) || len(packed) > len(text)/20 {
		t.Errorf("%d bytes pack to %d and back to %d, %v", len(text), len(packed), len(got), err)
	}
	for name, bad := range map[string][]byte{
		"nothing": nil, "noise": []byte("DCGM"), "half": packed[:len(packed)/2], "a bomb": Pack(make([]byte, MaxText+1)),
	} {
		if text, err := Unpack(bad); err == nil {
			t.Errorf("%s unpacks to %d bytes", name, len(text))
		}
	}
	if text, err := Unpack(Pack(make([]byte, MaxText))); err != nil || len(text) != MaxText {
		t.Errorf("the longest text: %d bytes, %v", len(text), err)
	}
}
