package host_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"dstack/internal/agentapi"
	"dstack/internal/host"
)

// TestListen serves the calls of a job by the only connection to its host, however that is reached.
func TestListen(t *testing.T) {
	for name, refuses := range map[string]bool{"forwarded": false, "over a command": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			h := w.host()
			ours(h)
			h.NoStreamlocal = refuses
			w.pool.Watch(host.Target{ID: "h", Endpoint: w.endpoint(h)})
			w.until("connected", func() bool { return w.sink.connected == 1 })
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			srv := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				fmt.Fprintf(w, "%s %s", r.RemoteAddr, body)
			})}
			t.Cleanup(func() { srv.Close() })
			served := make(chan error, 1)
			go func() { served <- srv.Serve(w.pool.Listen(ctx, "h", "job")) }()
			var group sync.WaitGroup
			for range 5 { // beside each other, and several requests over each
				group.Go(func() {
					c := h.Agent.Call(t.Context())
					defer c.Close()
					asks(t, c)
				})
			}
			group.Wait()
			cancel()
			if err := <-served; !errors.Is(err, net.ErrClosed) {
				t.Errorf("after the end: %v", err)
			}
			if _, err := w.pool.Listen(t.Context(), "h", "ended").Accept(); !agentapi.IsCode(err, agentapi.CodeConflict) {
				t.Errorf("a job that has ended: %v", err)
			}
		})
	}
}

func asks(t *testing.T, c net.Conn) {
	r := bufio.NewReader(c)
	for range 3 {
		fmt.Fprint(c, "POST / HTTP/1.1\r\nHost: server\r\nContent-Length: 5\r\n\r\nhello")
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if string(body) != "job job hello" || err != nil {
			t.Errorf("%q, %v", body, err)
		}
	}
}
