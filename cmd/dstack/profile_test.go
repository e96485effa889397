package main

import (
	"net"
	"net/http"
	"testing"
)

func TestServeProfilesOnLoopbackOnly(t *testing.T) {
	for _, addr := range []string{"0.0.0.0:6060", "10.0.0.1:6060", "127.0.0.1", "localhost:6060", "x"} {
		if err := serveProfiles(t.Context(), addr); err == nil {
			t.Errorf("%s: accepted", addr)
		}
	}
}

func TestServeProfiles(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	if err := serveProfiles(t.Context(), addr); err != nil {
		t.Fatal(err)
	}
	resp, err := http.Get("http://" + addr + "/debug/pprof/heap")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("status %d", resp.StatusCode)
	}
}
