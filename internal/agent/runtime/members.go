package runtime

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A process that hangs in the driver of a GPU survives being killed and keeps the GPU. Most hang in their exit, when
// their memory, and with it their environment and command line, is gone already; so it is when another thread hangs
// than the first one. Who belongs to a job is therefore noted while it runs: as long as the runner lives, by descent.

const (
	// membersFile is in a task's folder, for the next agent.
	membersFile = "job.pids"
	// firstNote is how long after the first look at a job's processes the next comes; later ones are noteEvery apart.
	firstNote = time.Second
	noteEvery = 10 * time.Second
	// readPatience bounds a read that needs the memory of a process. It waits for as long as that process maps some,
	// which is for good when it hangs in a driver then.
	readPatience = time.Second
	// jobIDVar begins the environment's line that says whose a process is. Runners have none.
	jobIDVar = "DSTACK_JOB_ID="
)

// process is what can be had of one without its memory.
type process struct {
	pid
	parent, session int
}

// ps lists the processes of the host, without those that have ended and nobody has waited for, and without the agent:
// one that was started from a job, as in the terminal of a dev environment, is not the job's, and its tasks are not.
func ps() ([]process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var list []process
	for _, e := range entries {
		num, err := strconv.Atoi(e.Name())
		if err != nil || num == os.Getpid() {
			continue
		}
		p, err := processOf(num)
		if short(err) {
			return nil, fmt.Errorf("list processes: %w", err)
		}
		if err == nil {
			list = append(list, p)
		}
	}
	return list, nil
}

// short says that descriptors or memory are used up, so that what could not be read may be there.
func short(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ENOMEM)
}

var errEnded = errors.New("the process has ended")

// processOf reads one process. It has ended when all its threads have.
func processOf(num int) (process, error) {
	f, err := stat(fmt.Sprintf("/proc/%d/stat", num))
	if err != nil {
		return process{}, err
	}
	if over(f[0]) {
		if err := threads(num); err != nil {
			return process{}, err
		}
	}
	parent, perr := strconv.Atoi(f[1])
	session, serr := strconv.Atoi(f[3])
	return process{pid: pid{num, f[19]}, parent: parent, session: session}, errors.Join(perr, serr)
}

// stat splits what follows the name in such a file, from the state on.
func stat(path string) ([]string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	f := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	if len(f) < 20 {
		return nil, fmt.Errorf("%s is not as expected", path)
	}
	return f, nil
}

func over(state string) bool { return state == "Z" || state == "X" }

// threads is errEnded for a process whose first thread has ended, unless it has others.
func threads(num int) error {
	dir := fmt.Sprintf("/proc/%d/task", num)
	entries, err := os.ReadDir(dir)
	if short(err) {
		return err
	}
	for _, e := range entries {
		f, err := stat(filepath.Join(dir, e.Name(), "stat"))
		if short(err) || err == nil && !over(f[0]) {
			return err
		}
	}
	return errEnded
}

// family finds who descends from a runner or from others that are known, with those of the sessions that they lead.
func family(all []process, runner pid, known []pid) []pid {
	in, sessions := map[int]bool{}, map[int]bool{}
	for _, q := range all {
		in[q.num] = q.pid == runner || slices.Contains(known, q.pid)
	}
	for grows := true; grows; {
		grows = false
		for _, q := range all {
			if !in[q.num] && (in[q.parent] || sessions[q.session]) {
				in[q.num], grows = true, true
			}
			if in[q.num] && q.num == q.session && !sessions[q.num] {
				sessions[q.num], grows = true, true
			}
		}
	}
	var list []pid
	for _, q := range all {
		if in[q.num] && q.pid != runner {
			list = append(list, q.pid)
		}
	}
	return list
}

// note remembers who belongs to a job, with others of whom somebody else knows it, and returns those who live.
func (p *Process) note(id string, runner pid, all []process, others ...pid) ([]pid, error) {
	p.noting.Lock()
	defer p.noting.Unlock()
	saved, err := readMembers(p.membersFile(id))
	if err != nil {
		return nil, err
	}
	known, noted := p.members[id]
	if !noted {
		known = saved
	}
	now := family(all, runner, append(slices.Clone(known), others...))
	if p.members[id] = now; len(now) == 0 {
		delete(p.members, id)
	}
	if !slices.Equal(saved, now) {
		writeMembers(p.membersFile(id), now)
	}
	return now, nil
}

func (p *Process) membersFile(id string) string { return filepath.Join(p.dir, id, membersFile) }

// writeMembers leaves the file as it was when it cannot be written; the next look tries again.
func writeMembers(path string, list []pid) {
	var text strings.Builder
	for _, m := range list {
		fmt.Fprintf(&text, "%d %s\n", m.num, m.start)
	}
	if os.WriteFile(path+".new", []byte(text.String()), 0o600) == nil {
		_ = os.Rename(path+".new", path)
	}
}

func readMembers(path string) (list []pid, err error) {
	data, err := os.ReadFile(path)
	if short(err) {
		return nil, err
	}
	for line := range strings.Lines(string(data)) {
		num, start, ok := strings.Cut(strings.TrimSpace(line), " ")
		if n, err := strconv.Atoi(num); ok && err == nil {
			list = append(list, pid{n, start})
		}
	}
	return list, nil
}

// forget drops what is known of a job's processes.
func (p *Process) forget(id string) {
	p.noting.Lock()
	defer p.noting.Unlock()
	delete(p.members, id)
	_ = os.Remove(p.membersFile(id)) // or it goes with the task's folder
}

// watch notes who belongs to a job until done is closed.
func (p *Process) watch(id string, runner pid, done <-chan struct{}) {
	for wait := firstNote; ; wait = noteEvery {
		if all, err := ps(); err == nil { // otherwise the next look sees them
			_, _ = p.note(id, runner, all)
		}
		select {
		case <-time.After(wait):
		case <-done:
			return
		}
	}
}

// ofJob finds the processes of a job that live: those that are known, and those that carry its id in their environment,
// which the runner does not. Unsure says that nobody can tell of one that began after the runner, and that is not known
// as another job's.
func (p *Process) ofJob(id string, runner pid) (list []pid, unsure bool, err error) {
	all, err := ps()
	if err != nil {
		return nil, false, err
	}
	var later []process
	for _, q := range all {
		if ticks(q.start) >= ticks(runner.start) {
			later = append(later, q)
		}
	}
	carry, unread, err := p.contain(later, "environ", "\x00"+jobIDVar+id+"\x00")
	list, nerr := p.note(id, runner, all, carry...)
	return list, len(unread) > 0 && runner != pid{} && !p.ofOthers(id, unread), errors.Join(err, nerr)
}

// ofOthers says that all of some processes are known as those of other jobs.
func (p *Process) ofOthers(id string, list []pid) bool {
	entries, _ := os.ReadDir(p.dir) // without it others are known as far as they were noted since the start
	p.noting.Lock()
	defer p.noting.Unlock()
	var known []pid
	for _, e := range entries {
		if _, read := p.members[e.Name()]; !read && e.Name() != id {
			members, _ := readMembers(p.membersFile(e.Name()))
			known = append(known, members...)
		}
	}
	for other, members := range p.members {
		if other != id {
			known = append(known, members...)
		}
	}
	return !slices.ContainsFunc(list, func(q pid) bool { return !slices.Contains(known, q) })
}

// ticks is a start time as a number, 0 when it is not known.
func ticks(start string) uint64 {
	n, _ := strconv.ParseUint(start, 10, 64)
	return n
}

// contain finds the processes whose file in /proc contains text; those of other users are not seen. Unread are
// those that could not be read in time.
func (p *Process) contain(list []process, file, text string) (found, unread []pid, err error) {
	for _, q := range list {
		data, rerr := p.readOf(q.pid, file)
		switch {
		case errors.Is(rerr, errHangs):
			unread = append(unread, q.pid)
		case short(rerr):
			err = rerr
		}
		if bytes.Contains(append([]byte{0}, data...), []byte(text)) {
			found = append(found, q.pid)
		}
	}
	return found, unread, err
}

var errHangs = errors.New("the process cannot be read in time")

// readOf reads a file of a process that needs its memory. It is errHangs when that takes too long; then the read goes
// on, and until it ends there is no other of the same process.
func (p *Process) readOf(q pid, file string) ([]byte, error) {
	p.reading.Lock()
	hangs := p.hung[q]
	p.reading.Unlock()
	if hangs != nil {
		select {
		case <-hangs:
			p.reading.Lock()
			delete(p.hung, q)
			p.reading.Unlock()
		default:
			return nil, errHangs
		}
	}
	done := make(chan struct{})
	var got []byte
	var err error
	go func() { // nothing ends it
		defer close(done)
		got, err = p.readFile(fmt.Sprintf("/proc/%d/%s", q.num, file))
	}()
	select {
	case <-done:
		return got, err // mostly that it has ended, or is another user's
	case <-time.After(readPatience):
	}
	p.reading.Lock()
	defer p.reading.Unlock()
	p.hung[q] = done
	return nil, errHangs
}
