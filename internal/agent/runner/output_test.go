package runner

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

func read(t *testing.T, dir, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestOutput(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		o, err := openOutput(dir, 0)
		if err != nil {
			t.Fatal(err)
		}
		write := func(s string) {
			if _, err := o.Write([]byte(s)); err != nil {
				t.Fatal(err)
			}
		}
		write("one\r\ntw")
		if got := read(t, dir, JobLogFile); got != "one\n" {
			t.Errorf("stored %q", got)
		}
		write("o\r\n\x1b[1Adrawn over")
		time.Sleep(quietAfter + time.Millisecond)
		synctest.Wait()
		write("\r\n\r\nend")
		if err := o.Close(); err != nil {
			t.Fatal(err)
		}
		if got := read(t, dir, JobLogFile); got != "one\ndrawn over\nend\n" {
			t.Errorf("stored %q", got)
		}
		if got := read(t, dir, RawLogFile); got != "one\r\ntwo\r\n\x1b[1Adrawn over\r\n\r\nend" {
			t.Errorf("raw %q", got)
		}
	})
}

// What is redrawn without a rest is stored all the same, after three seconds.
func TestOutputForcesRedrawnRows(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		o, err := openOutput(dir, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer o.Close()
		for range 50 {
			if _, err := o.Write([]byte("line\nbar\x1b[1A\x1b[1B")); err != nil {
				t.Fatal(err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if read(t, dir, JobLogFile) == "" {
			t.Error("nothing is stored after 5 s")
		}
	})
}

func TestOutputQuota(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		o, err := openOutput(dir, 10)
		if err != nil {
			t.Fatal(err)
		}
		defer o.Close()
		if _, err := o.Write([]byte("12345678\n")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour) // a new hour, a new allowance
		if _, err := o.Write([]byte("12345678\n")); err != nil {
			t.Fatal(err)
		}
		if _, err := o.Write([]byte("90\n")); !errors.Is(err, errQuota) {
			t.Errorf("%v, want the quota's error", err)
		}
		if got := read(t, dir, JobLogFile); got != "12345678\n12345678\n" {
			t.Errorf("stored %q", got)
		}
	})
}

// fill puts a disk without room in the place of a file, until room is called.
func fill(t *testing.T, f **os.File) (room func()) {
	t.Helper()
	file := *f
	device, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	*f = device
	return func() {
		t.Helper()
		if err := unix.Dup3(int(file.Fd()), int(device.Fd()), unix.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
	}
}

// On a full disk the job's output waits until there is room, and nothing of it is lost; but not for ever.
func TestOutputOnAFullDisk(t *testing.T) {
	for name, of := range map[string]func(*output) **os.File{
		"raw":    func(o *output) **os.File { return &o.raw },
		"stored": func(o *output) **os.File { return &o.stored },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				o, err := openOutput(dir, 0)
				if err != nil {
					t.Fatal(err)
				}
				defer o.Close()
				room := fill(t, of(o))
				done := make(chan error, 1)
				write := func(s string) {
					_, err := o.Write([]byte(s))
					done <- err
				}
				go write("one\r\n")
				time.Sleep(time.Minute)
				if got := o.lastLine(0); got != "" { // which holds up nobody
					t.Errorf("readers see %q", got)
				}
				select {
				case err := <-done:
					t.Fatalf("a full disk is not waited for: %v", err)
				default:
				}
				room()
				if err := <-done; err != nil {
					t.Fatal(err)
				}
				if raw, stored := read(t, dir, RawLogFile), read(t, dir, JobLogFile); raw != "one\r\n" || stored != "one\n" {
					t.Errorf("raw %q, stored %q", raw, stored)
				}
				fill(t, of(o))
				go write("two\r\n")
				time.Sleep(2 * diskPatience)
				select {
				case err := <-done:
					if !errors.Is(err, unix.ENOSPC) {
						t.Errorf("%v, want that the disk is full", err)
					}
				default:
					t.Error("a disk that stays full is waited for without end")
				}
				began := time.Now()
				if _, err := o.Write([]byte("three\r\n")); !errors.Is(err, unix.ENOSPC) || time.Since(began) != 0 {
					t.Errorf("what is left in the terminal: %v after %v", err, time.Since(began))
				}
			})
		})
	}
}

// Redrawn rows that the disk had no room for while nothing was printed are not lost without a word: the next output
// tells it, also when there is room again, and so does the end.
func TestRedrawnRowsOnAFullDisk(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		o, err := openOutput(dir, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := o.Write([]byte("\x1b[1Aone\n")); err != nil {
			t.Fatal(err)
		}
		room := fill(t, &o.stored)
		time.Sleep(2 * diskPatience)
		room()
		if _, err := o.Write([]byte("two\n")); !errors.Is(err, unix.ENOSPC) {
			t.Errorf("%v, want that the disk was full", err)
		}
		if err := o.Close(); !errors.Is(err, unix.ENOSPC) {
			t.Errorf("in the end: %v", err)
		}
	})
}

// Redrawn rows that are too much are found so while nothing is printed: the next output tells it.
func TestOutputQuotaOfRedrawnRows(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		o, err := openOutput(dir, 10)
		if err != nil {
			t.Fatal(err)
		}
		defer o.Close()
		if _, err := o.Write([]byte("\x1b[1A12345678\n90123\n")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(quietAfter + time.Millisecond)
		synctest.Wait()
		if _, err := o.Write([]byte("more\n")); !errors.Is(err, errQuota) {
			t.Errorf("%v, want the quota's error", err)
		}
	})
}

// Everybody who attaches gets every byte once, however late they come.
func TestFollow(t *testing.T) {
	o, err := openOutput(t.TempDir(), 0)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	results := make([]bytes.Buffer, 5)
	for i := range results {
		wg.Go(func() {
			if err := o.follow(int64(i), nil, func(p []byte) error { _, err := results[i].Write(p); return err }); err != nil {
				t.Error(err)
			}
		})
	}
	var want bytes.Buffer
	for n := range 1000 {
		line := bytes.Repeat([]byte{byte('a' + n%26)}, n%70)
		want.Write(line)
		if _, err := o.Write(line); err != nil {
			t.Fatal(err)
		}
	}
	o.Close()
	wg.Wait()
	for i := range results {
		if !bytes.Equal(results[i].Bytes(), want.Bytes()[i:]) {
			t.Errorf("reader from %d got %d of %d bytes", i, results[i].Len(), want.Len()-i)
		}
	}
}
