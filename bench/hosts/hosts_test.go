package main

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"net"
	"testing"

	"golang.org/x/crypto/ssh"

	"dstack/internal/agentbin"
	"dstack/internal/host"
)

// TestOnboard adds a simulated host as a server does, whose questions change with the product: the benchmark waits
// for hosts that cannot be added.
func TestOnboard(t *testing.T) {
	binary := []byte("the agent")
	sum := sha256.Sum256(binary)
	m, err := listen(options{Hash: hex.EncodeToString(sum[:])}, 7)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = m.serve(t.Context()) }() // ends with the test
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	user, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	pool := host.NewPool(host.Config{Agents: agentbin.Of(map[string][]byte{"amd64": binary}), Log: slog.New(slog.DiscardHandler)})
	defer pool.Close()
	at := m.listener.Addr().(*net.TCPAddr)
	done, err := pool.Onboard(t.Context(), host.OnboardRequest{Endpoint: host.Endpoint{Addr: at.IP.String(), Port: at.Port, User: "root", Keys: []ssh.Signer{user}}})
	if err != nil || done.Info.InstanceKey != "host-7" || len(done.Info.GPUs) != 8 {
		t.Errorf("%+v, %v", done.Info, err)
	}
}
