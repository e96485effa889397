package shim

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"dstack/internal/agentapi"
)

// watcher tells of changes in task directories: the kernel reports them at once, so that
// nothing polls.
type watcher struct {
	file   *os.File // waits without holding a thread; nil for one that sees nothing
	notify func(id string)

	mu  sync.Mutex
	fd  int // of file; -1 once closed
	ids map[int32]string
	wds map[string]int32
}

// newWatcher returns one that sees nothing beside an error of the kernel: it has a hundred instances for
// all processes of root, those in containers included, and no job can be let keep the agent from starting.
func newWatcher(begin func(flags int) (fd int, err error), notify func(id string)) (*watcher, error) {
	fd, err := begin(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return &watcher{fd: -1}, fmt.Errorf("watch task folders: %w", err)
	}
	return &watcher{file: os.NewFile(uintptr(fd), "inotify"), fd: fd, notify: notify, ids: map[int32]string{}, wds: map[string]int32{}}, nil
}

func (w *watcher) add(id, dir string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fd < 0 {
		return
	}
	wd, err := unix.InotifyAddWatch(w.fd, dir, unix.IN_MODIFY|unix.IN_MOVED_TO|unix.IN_CREATE)
	if err != nil {
		return // all processes of root share so many: the periodic look finds its changes
	}
	w.ids[int32(wd)], w.wds[id] = id, int32(wd)
}

// watches says that the kernel reports changes of a task.
func (w *watcher) watches(id string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, ok := w.wds[id]
	return ok
}

func (w *watcher) remove(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if wd, ok := w.wds[id]; ok && w.fd >= 0 {
		delete(w.wds, id)
		delete(w.ids, wd)
		_, _ = unix.InotifyRmWatch(w.fd, uint32(wd)) // gone with the folder
	}
}

// close ends run.
func (w *watcher) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fd >= 0 {
		w.fd = -1
		w.file.Close()
	}
}

// run reads the kernel's reports until close.
func (w *watcher) run() {
	if w.file == nil {
		return
	}
	buf := make([]byte, 64<<10)
	for {
		n, err := w.file.Read(buf)
		if err != nil {
			return
		}
		for _, id := range w.changed(buf[:n]) {
			w.notify(id)
		}
	}
}

// changed lists the tasks that reports speak of, each once.
func (w *watcher) changed(reports []byte) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var list []string
	for len(reports) >= unix.SizeofInotifyEvent {
		wd := int32(binary.NativeEndian.Uint32(reports))
		if id, ok := w.ids[wd]; ok && !slices.Contains(list, id) {
			list = append(list, id)
		}
		// A report is followed by a name whose length is its last number.
		size := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(reports[unix.SizeofInotifyEvent-4:]))
		reports = reports[min(size, len(reports)):]
	}
	return list
}

// fileChanged takes over what a runner wrote.
func (s *Shim) fileChanged(id string) {
	t := s.find(id)
	if t == nil {
		return
	}
	if rs, err := t.refresh(); err == nil {
		t.findPorts(rs)
	}
	s.wake()
}

const (
	// lookEvery is the time between two looks at every task, lookSoon at those of which the kernel reports nothing.
	lookEvery = 10 * time.Second
	lookSoon  = time.Second
)

// sample looks at every task now and then, in case a report of the kernel was lost.
func (s *Shim) sample(ctx context.Context) {
	tick := time.NewTicker(lookSoon)
	defer tick.Stop()
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		every := n%int(lookEvery/lookSoon) == 0
		for _, t := range s.all() {
			watched := s.watcher.watches(t.spec.ID)
			if state, _ := t.snapshot(); state.State != agentapi.Running || watched && !every {
				continue
			}
			if !watched && every { // others may have given some back
				s.watcher.add(t.spec.ID, t.jobDir())
			}
			s.fileChanged(t.spec.ID)
		}
	}
}
