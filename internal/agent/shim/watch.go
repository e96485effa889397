package shim

import (
	"context"
	"fmt"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// watcher tells of changes in task directories: the kernel reports them at once, so that
// nothing polls.
type watcher struct {
	fd     int
	notify func(id string)
	mu     sync.Mutex
	ids    map[int32]string
	wds    map[string]int32
	once   sync.Once
}

func newWatcher(notify func(id string)) (*watcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch task folders: %w", err)
	}
	return &watcher{fd: fd, notify: notify, ids: map[int32]string{}, wds: map[string]int32{}}, nil
}

func (w *watcher) add(id, dir string) {
	wd, err := unix.InotifyAddWatch(w.fd, dir, unix.IN_MODIFY|unix.IN_MOVED_TO|unix.IN_CREATE)
	if err != nil {
		return // the periodic look finds its changes
	}
	w.mu.Lock()
	w.ids[int32(wd)], w.wds[id] = id, int32(wd)
	w.mu.Unlock()
}

func (w *watcher) remove(id string) {
	w.mu.Lock()
	if wd, ok := w.wds[id]; ok {
		delete(w.wds, id)
		delete(w.ids, wd)
		_, _ = unix.InotifyRmWatch(w.fd, uint32(wd)) // gone with the folder
	}
	w.mu.Unlock()
}

func (w *watcher) close() { w.once.Do(func() { unix.Close(w.fd) }) }

// run reads the kernel's reports until ctx ends.
func (w *watcher) run(ctx context.Context) {
	buf := make([]byte, 64<<10)
	for ctx.Err() == nil {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(w.fd), Events: unix.POLLIN}}, 500)
		if err != nil && err != unix.EINTR {
			return
		}
		if n <= 0 {
			continue
		}
		n, err = unix.Read(w.fd, buf)
		if err != nil {
			if err == unix.EAGAIN || err == unix.EINTR {
				continue
			}
			return
		}
		changed := map[string]bool{}
		w.mu.Lock()
		for off := 0; off+unix.SizeofInotifyEvent <= n; {
			ev := (*unix.InotifyEvent)(unsafe.Pointer(&buf[off]))
			if id, ok := w.ids[ev.Wd]; ok {
				changed[id] = true
			}
			off += unix.SizeofInotifyEvent + int(ev.Len)
		}
		w.mu.Unlock()
		for id := range changed {
			w.notify(id)
		}
	}
}

// fileChanged takes over what a runner wrote.
func (s *Shim) fileChanged(id string) {
	t := s.find(id)
	if t == nil {
		return
	}
	if rs, ok := t.refresh(); ok {
		t.setPorts(s.ctx, rs)
	}
	s.wake()
}

// sample looks at every task now and then, in case a report of the kernel was lost.
func (s *Shim) sample(ctx context.Context) {
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, t := range s.all() {
			if state, _ := t.snapshot(); state.State == "running" {
				s.fileChanged(t.spec.ID)
			}
		}
	}
}
