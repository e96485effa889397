package runner

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// errQuota says that the job printed more than it may.
var errQuota = errors.New("log quota exceeded")

// output is where the job's bytes go: raw for clients that attach, stripped for the store.
type output struct {
	writing sync.Mutex // held by who writes, which may take long: see patiently
	raw     *os.File
	stored  *os.File
	strip   stripper
	quota   int64 // bytes per hour, 0: unlimited
	used    int64
	hour    time.Time
	over    bool
	full    bool  // the disk, for longer than is waited for
	broken  error // why redrawn rows are not in the job's log
	flush   *time.Timer
	forced  time.Time // when redrawn rows are taken as final at the latest

	mu      sync.Mutex    // of what readers look at
	changed chan struct{} // closed when raw grew or ended
	size    int64         // of raw
	written time.Time     // when it grew
	closed  bool          // changed with writing held, too
	readers sync.WaitGroup
	read    chan struct{} // closed when somebody has read all of a job that has ended
	readAll sync.Once
	seconds []mark
}

// quietAfter is when redrawn rows are taken as final.
const quietAfter = 500 * time.Millisecond

// forcedAfter is when they are although the drawing goes on.
const forcedAfter = 3 * time.Second

const (
	// diskPatience is how long a full disk is waited for, diskRetry the time between two attempts.
	diskPatience = 10 * time.Minute
	diskRetry    = 500 * time.Millisecond
)

// patiently repeats what fails because the disk is full. What the job prints meanwhile waits in its
// terminal, and the job with it, as when somebody has stopped its output.
func patiently(do func() error) error {
	for late := time.Now().Add(diskPatience); ; <-time.After(diskRetry) {
		err := do()
		if !full(err) || time.Now().After(late) {
			return err
		}
	}
}

// append writes all of p to one of the logs. A disk that stayed full is not waited for again: the job is over.
func (o *output) append(f *os.File, p []byte) (n int, err error) {
	write := func() error {
		m, err := f.Write(p[n:])
		n += m
		return err
	}
	if o.full {
		err = write()
	} else {
		err = patiently(write)
		o.full = full(err)
	}
	return n, err
}

func full(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

func openOutput(dir string, quota int64) (*output, error) {
	raw, err := os.OpenFile(filepath.Join(dir, RawLogFile), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open the raw log: %w", err)
	}
	stored, err := os.OpenFile(filepath.Join(dir, JobLogFile), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		raw.Close()
		return nil, fmt.Errorf("open the job's log: %w", err)
	}
	o := &output{raw: raw, stored: stored, quota: quota, hour: time.Now(), changed: make(chan struct{}), read: make(chan struct{})}
	o.flush = time.AfterFunc(time.Hour, o.quiet)
	o.flush.Stop()
	return o, nil
}

// Write takes bytes from the terminal; errQuota when the job has to end.
func (o *output) Write(p []byte) (int, error) {
	o.writing.Lock()
	defer o.writing.Unlock()
	n, err := o.print(p)
	if err != nil {
		return n, fmt.Errorf("write the raw log: %w", err)
	}
	if err := o.store(o.strip.write(p)); err != nil {
		return n, err
	}
	switch {
	case !o.strip.moved:
		o.forced = time.Time{}
	case o.forced.IsZero():
		o.forced = time.Now().Add(forcedAfter)
	case time.Now().After(o.forced):
		o.forced = time.Time{}
		if err := o.store(o.strip.quiet()); err != nil {
			return len(p), err
		}
	}
	o.flush.Reset(quietAfter)
	return len(p), nil
}

// print appends to the raw log.
func (o *output) print(p []byte) (int, error) {
	o.mu.Lock()
	o.written = time.Now()
	o.mark(o.written)
	o.mu.Unlock()
	n, err := o.append(o.raw, p)
	o.mu.Lock()
	o.size += int64(n)
	o.wake()
	o.mu.Unlock()
	return n, err
}

// line adds a line of the runner's own to both logs.
func (o *output) line(text string) error {
	_, err := o.Write([]byte(text + "\r\n"))
	return err
}

func (o *output) store(p []byte) error {
	switch {
	case o.broken != nil:
		return o.broken
	case len(p) == 0:
		return nil
	case o.over:
		return errQuota
	}
	if time.Since(o.hour) >= time.Hour {
		o.hour, o.used = time.Now(), 0
	}
	if o.quota > 0 && o.used+int64(len(p)) > o.quota {
		o.over = true
		return errQuota
	}
	o.used += int64(len(p))
	if _, err := o.append(o.stored, p); err != nil {
		return fmt.Errorf("write the job's log: %w", err)
	}
	return nil
}

// lastLine is what was printed behind the last newline, its last bytes if that is long; "" unless
// there has been silence for so long.
func (o *output) lastLine(silence time.Duration) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	if time.Since(o.written) < silence {
		return ""
	}
	tail := make([]byte, min(o.size, 256))
	if _, err := o.raw.ReadAt(tail, o.size-int64(len(tail))); err != nil {
		return ""
	}
	return string(tail[bytes.LastIndexByte(tail, '\n')+1:])
}

func (o *output) quiet() {
	if !o.writing.TryLock() {
		return // who writes has it called again
	}
	defer o.writing.Unlock()
	if !o.closed {
		o.broken = o.store(o.strip.quiet()) // the next write reports it
	}
}

func (o *output) wake() {
	close(o.changed)
	o.changed = make(chan struct{})
}

// Close writes what is left.
func (o *output) Close() error {
	o.writing.Lock()
	defer o.writing.Unlock()
	if o.closed {
		return nil
	}
	o.flush.Stop()
	err := o.store(o.strip.close())
	if err != nil && !errors.Is(err, errQuota) {
		err = fmt.Errorf("close the job's log: %w", err)
	} else {
		err = nil
	}
	o.mu.Lock()
	o.closed = true
	o.wake()
	o.mu.Unlock()
	return errors.Join(err, o.stored.Close())
}

// drained waits until clients that attach have read the end, but not long.
func (o *output) drained(limit time.Duration) {
	done := make(chan struct{})
	go func() {
		o.readers.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(limit):
	}
}

// follow calls send with the raw bytes from offset on until the job has ended or stop.
func (o *output) follow(offset int64, stop <-chan struct{}, send func([]byte) error) error {
	o.readers.Add(1)
	defer o.readers.Done()
	buf := make([]byte, 32<<10)
	for {
		o.mu.Lock()
		size, closed, changed := o.size, o.closed, o.changed
		o.mu.Unlock()
		for offset < size {
			n, err := o.raw.ReadAt(buf[:min(int64(len(buf)), size-offset)], offset)
			if n > 0 {
				offset += int64(n)
				if err := send(buf[:n]); err != nil {
					return err
				}
			}
			if err != nil && n == 0 {
				return fmt.Errorf("read the raw log: %w", err)
			}
		}
		if closed {
			o.readAll.Do(func() { close(o.read) })
			return nil
		}
		select {
		case <-changed:
		case <-stop:
			return nil
		}
	}
}
