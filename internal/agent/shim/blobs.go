package shim

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"dstack/internal/agentapi"
)

const (
	// maxBlob bounds an uploaded blob, in bytes.
	maxBlob = 4 << 30
	// blobKeep is how long a blob stays that no task uses, for the next run of the same code.
	blobKeep = 24 * time.Hour
)

func (s *Shim) blobPath(sum string) string { return filepath.Join(s.Home, "blobs", sum) }

func (s *Shim) headBlob(w http.ResponseWriter, r *http.Request) {
	sum := r.PathValue("sum")
	if !validSum(sum) {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	if _, err := os.Stat(s.blobPath(sum)); err != nil {
		w.WriteHeader(http.StatusNotFound)
	}
}

// putBlob stores a blob under its hash, once it is there in full.
func (s *Shim) putBlob(w http.ResponseWriter, r *http.Request) {
	sum := r.PathValue("sum")
	if !validSum(sum) {
		refuse(w, http.StatusBadRequest, agentapi.CodeInvalid, "not a SHA-256: "+strconv.Quote(sum))
		return
	}
	f, err := os.CreateTemp(filepath.Join(s.Home, "blobs"), ".upload-*")
	if err != nil {
		refuse(w, http.StatusInsufficientStorage, "", err.Error())
		return
	}
	defer os.Remove(f.Name()) // gone after the rename
	h := sha256.New()
	_, err = io.Copy(io.MultiWriter(f, h), http.MaxBytesReader(w, r.Body, maxBlob))
	// Without Sync there may be an empty file under the name after a power failure, which all later runs of
	// the same code would get.
	if err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		refuse(w, http.StatusInsufficientStorage, "", err.Error())
		return
	}
	if hex.EncodeToString(h.Sum(nil)) != sum {
		refuse(w, http.StatusBadRequest, agentapi.CodeInvalid, "the content has another hash")
		return
	}
	if err := os.Rename(f.Name(), s.blobPath(sum)); err != nil {
		refuse(w, http.StatusInsufficientStorage, "", err.Error())
		return
	}
	answer(w, struct{}{})
}

// sweepBlobs removes what no task has used for long. Tasks hold blobs by hard links, which
// also tell when a blob was last taken or given back: then its inode changed. A blob that
// goes between a server's look and its task is uploaded again.
func (s *Shim) sweepBlobs(now time.Time) {
	entries, err := os.ReadDir(filepath.Join(s.Home, "blobs"))
	if err != nil {
		s.Log.Warn("look for unused uploads", "err", err)
		return
	}
	for _, e := range entries {
		var st unix.Stat_t
		path := s.blobPath(e.Name())
		if unix.Lstat(path, &st) != nil || st.Nlink > 1 || now.Sub(time.Unix(st.Ctim.Unix())) < blobKeep {
			continue
		}
		if err := os.Remove(path); err != nil {
			s.Log.Warn("remove an unused upload", "err", err)
		}
	}
}
