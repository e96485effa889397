package runner

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"dstack/internal/agent/sshd"
	"dstack/internal/agentapi"
)

// run takes the job from its setup to its end. A stop ends the setup too: fetching code
// may take long.
func (r *runner) run(ctx context.Context) ending {
	setupCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	ready := make(chan setup, 1)
	go func() { ready <- r.setup(setupCtx) }()
	var s setup
	select {
	case s = <-ready:
	case req := <-r.stop:
		return ending{reason: req.Reason, message: req.Message}
	case <-ctx.Done():
		return endedFromOutside()
	}
	defer s.cleanup()
	if s.failed != nil {
		return *s.failed
	}
	return r.execute(ctx, s.env, s.dir)
}

// setup is what comes before the job's process.
type setup struct {
	env     map[string]string
	dir     string
	failed  *ending // why the job cannot start
	cleanup func()
}

func (r *runner) setup(ctx context.Context) setup {
	s := setup{cleanup: func() {}}
	fail := func(reason, format string, args ...any) setup {
		end := failed(reason, format, args...)
		s.failed = &end
		return s
	}
	if r.spec.ServerAccess {
		if err := r.openAccess(ctx); err != nil {
			r.Log.Error("give the job access to the server", "err", err)
			return fail(agentapi.TerminatedByServer, noAccess)
		}
	}
	passwd, _ := os.ReadFile("/etc/passwd") // an image may have none
	group, _ := os.ReadFile("/etc/group")
	var err error
	if r.acct, err = resolveUser(r.spec.User, string(passwd), string(group)); err != nil {
		return fail(agentapi.ExecutorError, "Failed to set job user (%v)", err)
	}
	if !r.Container && r.acct.uid != uint32(os.Getuid()) {
		return fail(agentapi.ExecutorError, "Failed to set job user (plain processes run as %d only)", os.Getuid())
	}
	if s.dir, err = r.workingDir(); err != nil {
		return fail(agentapi.ExecutorError, "Failed to set job working dir (%v)", err)
	}
	r.update(func(st *State) { st.Username, st.WorkingDir = r.acct.name, s.dir })
	if err := r.provisionHome(); err != nil {
		r.Log.Warn("set up the home directory", "err", err)
	}
	if s.cleanup, err = r.gitCredentials(); err != nil {
		r.Log.Warn("leave the repo's credentials in the home directory", "err", err)
	}
	if err := r.setupRepo(ctx, s.dir); err != nil {
		return fail(agentapi.ContainerExitedWithError, "Failed to set up the repo (%v)", err)
	}
	if err := r.setupFiles(s.dir); err != nil {
		return fail(agentapi.ExecutorError, "Failed to set up files (%v)", err)
	}
	s.env = r.environment(s.dir)
	if err := r.profile(s.env, s.dir); err != nil {
		r.Log.Warn("write the profile", "err", err)
	}
	return s
}

func failed(reason, format string, args ...any) ending {
	return ending{reason: reason, message: fmt.Sprintf(format, args...)}
}

// workflow is where code goes when nothing else is said: a folder of the container's own.
const workflow = "/workflow"

// place is where a path of the specification lies, relative ones below base. A plain process has
// no container, and its working directory stands for /workflow.
func (r *runner) place(path, base string) (string, error) {
	if rest, ok := strings.CutPrefix(filepath.Clean(path)+"/", workflow+"/"); ok && !r.Container {
		return filepath.Join(r.ownDir(), rest), nil
	}
	return r.acct.expand(path, base)
}

// ownDir is the working directory of a plain process, if nothing else is said.
func (r *runner) ownDir() string { return filepath.Join(r.Dir, "work") }

func (r *runner) workingDir() (string, error) {
	base, err := os.Getwd()
	if err != nil {
		base = "/"
	}
	if !r.Container {
		base = r.ownDir()
	}
	dir := base
	if r.spec.WorkingDir != "" {
		if dir, err = r.place(r.spec.WorkingDir, base); err != nil {
			return "", err
		}
	}
	return dir, r.acct.own(dir)
}

// environment is what the job's process gets, later entries winning (host-agents 2.11).
func (r *runner) environment(dir string) map[string]string {
	env := map[string]string{}
	for _, kv := range os.Environ() {
		k, v, _ := strings.Cut(kv, "=")
		env[k] = v
	}
	c := r.spec.Cluster
	repoDir := dir
	if r.spec.Repo != nil {
		if p, err := r.place(r.spec.Repo.Dir, dir); err == nil {
			repoDir = p
		}
	}
	gpus := 0
	for _, n := range c.GPUsPerNode {
		gpus += n
	}
	if len(c.GPUsPerNode) == 0 {
		gpus = r.spec.JobsPerReplica * c.GPUsPerJob
	}
	for k, v := range map[string]string{
		"DSTACK_RUN_ID": r.spec.RunID, "DSTACK_JOB_ID": r.spec.JobID, "DSTACK_RUN_NAME": r.spec.RunName,
		"DSTACK_REPO_ID": r.spec.RepoID, "DSTACK_REPO_DIR": repoDir, "DSTACK_WORKING_DIR": dir,
		"DSTACK_NODES_IPS": strings.Join(c.NodeIPs, "\n"), "DSTACK_MASTER_NODE_IP": c.MasterIP,
		"DSTACK_NODE_RANK": strconv.Itoa(r.spec.JobNum), "DSTACK_NODES_NUM": strconv.Itoa(r.spec.JobsPerReplica),
		"DSTACK_GPUS_PER_NODE": strconv.Itoa(c.GPUsPerJob), "DSTACK_GPUS_NUM": strconv.Itoa(gpus),
		"DSTACK_MPI_HOSTFILE": filepath.Join(r.home, "mpi", "hostfile"),
	} {
		env[k] = v
	}
	for k, v := range r.spec.Env {
		env[k] = v
	}
	if r.spec.ServerAccess && env["DSTACK_SERVER_URL"] == agentapi.ServerURL {
		env["DSTACK_SERVER_URL"] = r.serverURL()
	}
	for k := range env {
		if strings.HasPrefix(k, "BASH_FUNC_") {
			delete(env, k)
		}
	}
	if env["PATH"] == "" {
		env["PATH"] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	}
	env["HOME"] = r.acct.home
	return env
}

// sessionEnv is what SSH sessions get on top of a login's own variables.
func (r *runner) sessionEnv() []string {
	s := r.current()
	if s.Phase != Running {
		return nil // the account is not known before
	}
	return list(r.environment(s.WorkingDir))
}

func list(env map[string]string) []string {
	out := make([]string, 0, len(env))
	for k, v := range env {
		out = append(out, k+"="+v)
	}
	sort.Strings(out)
	return out
}

// profile writes what login shells source, and the MPI host file.
func (r *runner) profile(env map[string]string, dir string) error {
	if err := os.MkdirAll(filepath.Join(r.home, "mpi"), 0o755); err != nil {
		return err
	}
	var hosts strings.Builder
	for i, ip := range r.spec.Cluster.NodeIPs {
		if ip == "" {
			hosts.Reset()
			break
		}
		hosts.WriteString(ip)
		if i < len(r.spec.Cluster.GPUsPerNode) && r.spec.Cluster.GPUsPerNode[i] > 0 {
			fmt.Fprintf(&hosts, " slots=%d", r.spec.Cluster.GPUsPerNode[i])
		}
		hosts.WriteByte('\n')
	}
	if err := WriteFile(filepath.Join(r.home, "mpi", "hostfile"), []byte(hosts.String()), 0o644); err != nil {
		return err
	}
	var b strings.Builder
	for _, kv := range list(env) {
		k, v, _ := strings.Cut(kv, "=")
		switch k {
		case "HOSTNAME", "USER", "HOME", "SHELL", "SHLVL", "PWD", "_":
			continue
		}
		if isIdentifier(k) {
			fmt.Fprintf(&b, "export %s='%s'\n", k, strings.ReplaceAll(v, "'", `'"'"'`))
		}
	}
	b.WriteString("cd \"$DSTACK_WORKING_DIR\"\n")
	path := filepath.Join(r.home, "profile")
	if err := WriteFile(path, []byte(b.String()), 0o644); err != nil {
		return err
	}
	if !r.Container {
		return nil
	}
	f, err := os.OpenFile("/etc/profile", os.O_APPEND|os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = fmt.Fprintf(f, "\n. %s\n", path)
	return err
}

func isIdentifier(s string) bool {
	if s == "" || s[0] >= '0' && s[0] <= '9' {
		return false
	}
	return strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") == ""
}

// execute runs the command on a terminal until it ends or has to.
func (r *runner) execute(ctx context.Context, env map[string]string, dir string) ending {
	if len(r.spec.Command) == 0 {
		return failed(agentapi.ExecutorError, "Nothing to run: the job has no commands and its image no entrypoint")
	}
	cmd := exec.Command(r.spec.Command[0], r.spec.Command[1:]...)
	cmd.Env, cmd.Dir = list(env), dir
	if path, err := lookPath(r.spec.Command[0], env["PATH"], dir); err == nil {
		cmd.Path, cmd.Err = path, nil
	} else {
		return r.notStarted(err)
	}
	master, slave, err := sshd.OpenTerminal()
	if err != nil {
		return failed(agentapi.ExecutorError, "Failed to open a terminal (%v)", err)
	}
	defer master.Close()
	_ = slave.Chown(int(r.acct.uid), int(r.acct.gid)) // as far as we may
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0}
	if r.Container && os.Getuid() == 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: r.acct.uid, Gid: r.acct.gid, Groups: r.acct.groups}
	}
	if err := cmd.Start(); err != nil {
		slave.Close()
		return r.notStarted(err)
	}
	slave.Close()
	r.update(func(s *State) { s.Phase = Running })
	quota := make(chan error, 1)
	copied := make(chan struct{})
	out := sshd.NewOutput(master)
	go func() {
		defer close(copied)
		buf := make([]byte, 32<<10)
		for {
			n, err := out.Read(buf)
			if n > 0 {
				if _, werr := r.output.Write(buf[:n]); werr != nil {
					select {
					case quota <- werr:
					default:
					}
				}
			}
			if err != nil {
				return // the terminal is closed: nobody writes any more
			}
		}
	}()
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	c := &child{cmd: cmd, started: time.Now(), terminal: master, exited: exited}
	if slices.Contains(cmd.Args, "-i") {
		over := make(chan struct{})
		defer close(over)
		go c.leavePrompt(r.output, over)
	}
	end := r.await(ctx, c, quota)
	// What the job left in the terminal is read, however slow the disk is that it goes to; descendants
	// that keep it open are not waited for.
	out.CommandEnded()
	<-copied
	return end
}

func (r *runner) notStarted(err error) ending {
	msg := fmt.Sprintf("%s: %v", r.spec.Command[0], errors.Unwrap(err))
	if errors.Unwrap(err) == nil {
		msg = err.Error()
	}
	_ = r.output.line(msg) // the message is in the state too
	return ending{reason: agentapi.ContainerExitedWithError, message: msg}
}

// await waits for the end of the command, or ends it.
func (r *runner) await(ctx context.Context, c *child, quota <-chan error) ending {
	var expired <-chan time.Time
	if r.spec.MaxDuration > 0 {
		t := time.NewTimer(agentapi.Seconds(r.spec.MaxDuration))
		defer t.Stop()
		expired = t.C
	}
	select {
	case err := <-c.exited:
		return exitOf(err)
	case err := <-quota:
		c.end(0, r.stop)
		if errors.Is(err, errQuota) {
			return failed(agentapi.LogQuotaExceeded, "Job log output exceeded the hourly quota of %d bytes", r.spec.LogQuotaHour)
		}
		return failed(agentapi.ExecutorError, "%v", err)
	case s := <-r.stop:
		c.end(agentapi.Seconds(s.Grace), r.stop)
		return ending{reason: s.Reason, message: s.Message}
	case <-expired:
		c.end(agentapi.Seconds(r.spec.StopDuration), r.stop)
		return ending{reason: agentapi.MaxDurationExceeded, message: "Max duration exceeded"}
	case <-ctx.Done():
		c.end(5*time.Second, r.stop)
		return endedFromOutside()
	}
}

// endedFromOutside is the end of a job whose container or host is ended by somebody else, who sends a signal
// first: dstack itself never does. It is a failure like that of a container that was killed, so that the job
// is retried where errors are.
func endedFromOutside() ending {
	return ending{reason: agentapi.ContainerExitedWithError, message: "The container was ended by its host: the host or its container engine was stopped or restarted"}
}

func exitOf(err error) ending {
	if err == nil {
		zero := 0
		return ending{reason: agentapi.DoneByRunner, exit: &zero}
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		code := exit.ExitCode() // -1 when killed by a signal, as published runners say it
		end := ending{reason: agentapi.ContainerExitedWithError, exit: &code}
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			end.message = "The command was ended by " + SignalText(status.Signal())
		}
		return end
	}
	return ending{reason: agentapi.ContainerExitedWithError, message: err.Error()}
}

// SignalText names a signal for people.
func SignalText(s syscall.Signal) string {
	text := fmt.Sprintf("signal %d", int(s))
	if name := unix.SignalName(s); name != "" {
		text += " (" + name + ")"
	}
	if s == syscall.SIGKILL {
		text += ", which is usually a lack of memory"
	}
	return text
}

// lookPath finds a program on the job's PATH, not on ours.
func lookPath(name, path, dir string) (string, error) {
	if strings.Contains(name, "/") {
		if !filepath.IsAbs(name) {
			name = filepath.Join(dir, name)
		}
		return name, executable(name)
	}
	for _, d := range filepath.SplitList(path) {
		p := filepath.Join(d, name)
		if executable(p) == nil {
			return p, nil
		}
	}
	return "", fmt.Errorf("%s: command not found", name)
}

func executable(path string) error {
	st, err := os.Stat(path)
	if err != nil {
		return err
	}
	if st.IsDir() || st.Mode()&0o111 == 0 {
		return fmt.Errorf("%s: permission denied", path)
	}
	return nil
}
