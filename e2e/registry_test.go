//go:build e2e

package e2e

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// slowImage is the image of a slow registry, as machines reach it: Docker needs no TLS for
// addresses of the machine itself.
const slowImage = "127.0.0.1:5000/slow:1"

// registry serves one image with a shell, whose layer it holds back until it is opened.
type registry struct {
	manifest []byte
	blobs    map[string][]byte // by digest
	layer    string
	asked    chan struct{} // holds a token when somebody has asked for the layer
	gate     chan struct{}
}

// newRegistry serves on machine's own loopback interface, through SSH.
func newRegistry(t *testing.T, key string, m *machine) *registry {
	t.Helper()
	r := &registry{blobs: map[string][]byte{}, asked: make(chan struct{}, 1), gate: make(chan struct{})}
	layer := shellLayer(t)
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux", "config": map[string]any{"Env": []string{"PATH=/bin"}, "Cmd": []string{"/bin/sh"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{digest(layer)}},
	})
	if err != nil {
		t.Fatal(err)
	}
	r.layer = digest(layer)
	r.blobs[r.layer], r.blobs[digest(config)] = layer, config
	const docker = "application/vnd.docker."
	r.manifest, err = json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": docker + "distribution.manifest.v2+json",
		"config": map[string]any{"mediaType": docker + "container.image.v1+json", "size": len(config), "digest": digest(config)},
		"layers": []any{map[string]any{"mediaType": docker + "image.rootfs.diff.tar", "size": len(layer), "digest": r.layer}},
	})
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: r}
	l := listenOn(t, key, m, "127.0.0.1:5000")
	done := make(chan struct{})
	go func() { _ = srv.Serve(l); close(done) }()
	t.Cleanup(func() { _ = srv.Close(); <-done })
	return r
}

// open lets the layer through from now on.
func (r *registry) open() { close(r.gate) }

func (r *registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	name := req.URL.Path[strings.LastIndex(req.URL.Path, "/")+1:]
	switch {
	case req.URL.Path == "/v2/":
	case strings.Contains(req.URL.Path, "/manifests/"):
		w.Header().Set("Content-Type", "application/vnd.docker.distribution.manifest.v2+json")
		w.Header().Set("Docker-Content-Digest", digest(r.manifest))
		w.Header().Set("Content-Length", fmt.Sprint(len(r.manifest)))
		if req.Method != http.MethodHead {
			_, _ = w.Write(r.manifest) // the engine may have given up
		}
	case r.blobs[name] != nil:
		r.serveBlob(w, req, name)
	default:
		http.NotFound(w, req)
	}
}

func (r *registry) serveBlob(w http.ResponseWriter, req *http.Request, name string) {
	data := r.blobs[name]
	w.Header().Set("Content-Length", fmt.Sprint(len(data)))
	if name == r.layer {
		_, _ = w.Write(data[:1])
		data = data[1:]
		_ = http.NewResponseController(w).Flush()
		select {
		case r.asked <- struct{}{}:
		default:
		}
		select {
		case <-r.gate:
		case <-req.Context().Done():
			return
		}
	}
	_, _ = w.Write(data) // the engine may have given up
}

// waitAsked waits until the image is being pulled.
func (r *registry) waitAsked(t *testing.T) {
	t.Helper()
	select {
	case <-r.asked:
	case <-time.After(30 * time.Second):
		t.Fatal("the host does not pull the image")
	}
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// shellLayer is a file system with BusyBox.
func shellLayer(t *testing.T) []byte {
	t.Helper()
	path, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	if path, err = filepath.EvalSymlinks(path); err != nil {
		t.Fatal(err)
	}
	box, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	add := func(h tar.Header, data []byte) {
		h.Size = int64(len(data))
		if err := tw.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"bin/", "root/", "tmp/"} {
		add(tar.Header{Name: dir, Typeflag: tar.TypeDir, Mode: 0o755}, nil)
	}
	add(tar.Header{Name: "bin/busybox", Typeflag: tar.TypeReg, Mode: 0o755}, box)
	for _, applet := range []string{"sh", "cat", "sleep", "mv", "echo"} {
		add(tar.Header{Name: "bin/" + applet, Typeflag: tar.TypeSymlink, Linkname: "busybox", Mode: 0o777}, nil)
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// listenOn listens on an address of a machine until the test ends.
func listenOn(t *testing.T, key string, m *machine, addr string) net.Listener {
	t.Helper()
	data, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.ParsePrivateKey(data)
	if err != nil {
		t.Fatal(err)
	}
	c, err := ssh.Dial("tcp", net.JoinHostPort(m.Addr, "22"), &ssh.ClientConfig{
		User: "root", Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)},
		HostKeyCallback: ssh.InsecureIgnoreHostKey(), // the machine is ours, and was made a moment ago
		Timeout:         10 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	l, err := c.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return l
}
