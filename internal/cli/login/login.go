// Package login is `dstack login`.
package login

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"dstack/internal/api"
	"dstack/internal/cli/client"
	"dstack/internal/cli/clientconfig"
	"dstack/internal/cli/program"
)

const (
	defaultURL     = "https://sky.dstack.ai"
	resolveTimeout = 5 * time.Second
	browserTimeout = 10 * time.Minute
)

// Options are what the user says.
type Options struct {
	*program.Program
	URL, Provider string
	Yes, No       bool
	// Open shows an address in the browser; nil uses the system's.
	Open func(ctx context.Context, url string) error
}

// New returns the command.
func New(p *program.Program) *cobra.Command {
	o := Options{Program: p, Open: openBrowser}
	cmd := &cobra.Command{
		Use: "login", Short: "Authorize the CLI using Single Sign-On", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return Run(cmd.Context(), o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.URL, "url", "", "the URL of the server")
	f.StringVarP(&o.Provider, "provider", "p", "", "the provider to log in with")
	f.BoolVarP(&o.Yes, "yes", "y", false, "set the default project without asking")
	f.BoolVarP(&o.No, "no", "n", false, "do not set a default project")
	cmd.MarkFlagsMutuallyExclusive("yes", "no")
	return cmd
}

// Run logs in with the browser and saves the user's projects.
func Run(ctx context.Context, o Options) error {
	if o.URL == "" {
		if !o.InTTY {
			return errors.New("--url is required without a terminal")
		}
		var err error
		if o.URL, err = o.Prompt(ctx, fmt.Sprintf("Enter the server URL (%s): ", defaultURL), defaultURL, "--url"); err != nil {
			return err
		}
	}
	base, err := resolve(ctx, o.URL)
	if err != nil {
		return err
	}
	anonymous, err := o.Dial(program.Target{URL: base})
	if err != nil {
		return err
	}
	provider, err := o.provider(ctx, anonymous)
	if err != nil {
		return err
	}
	user, err := o.authorize(ctx, anonymous, provider)
	if err != nil {
		return err
	}
	o.Printf("Logged in as %s\n", user.Username)
	return o.save(ctx, base, user.Creds.Token)
}

// resolve follows redirects of the server's address: a redirected POST would lose its body.
func resolve(ctx context.Context, address string) (string, error) {
	if !strings.Contains(address, "://") {
		address = "http://" + address
	}
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return "", fmt.Errorf("Failed to resolve url %s", address)
	}
	res, err := new(http.Client).Do(req)
	if err != nil {
		return "", fmt.Errorf("Failed to resolve url %s\nIs the server running, and is the URL right?", address)
	}
	_ = res.Body.Close() // not read
	u := *res.Request.URL
	u.RawQuery, u.Fragment = "", ""
	return strings.TrimRight(u.String(), "/"), nil
}

func (o Options) provider(ctx context.Context, c *program.Conn) (string, error) {
	all, err := c.ListAuthProviders(ctx)
	if err != nil {
		return "", err
	}
	var names []string
	for _, p := range all {
		if p.Enabled && p.Name != "" {
			names = append(names, p.Name)
		}
	}
	available := strings.Join(names, ", ")
	switch {
	case len(names) == 0:
		return "", errors.New("No SSO providers configured on the server. Get a token from the server's administrator, then run `dstack project add`")
	case o.Provider != "" && slices.Contains(names, o.Provider):
		return o.Provider, nil
	case o.Provider != "":
		return "", fmt.Errorf("Provider %s not configured on the server. Available providers: %s", o.Provider, available)
	case len(names) == 1:
		return names[0], nil
	case !o.InTTY:
		return "", fmt.Errorf("Specify -p/--provider to choose SSO provider Available providers: %s", available)
	}
	n, err := o.Choose(ctx, "Select SSO provider:", names, 0, "-p")
	if err != nil {
		return "", err
	}
	return names[n], nil
}

// authorize sends the user to the provider and waits until the browser comes back with a code.
func (o Options) authorize(ctx context.Context, c *program.Conn, provider string) (api.UserWithCreds, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, browserTimeout, errors.New("nobody logged in"))
	defer cancel()
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return api.UserWithCreds{}, fmt.Errorf("wait for the browser: %w", err)
	}
	result := make(chan api.UserWithCreds, 1)
	failed := make(chan error, 1)
	srv := &http.Server{ReadHeaderTimeout: resolveTimeout, Handler: callback(ctx, c, provider, result, failed)}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	defer func() {
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = srv.Shutdown(stop) // the page was sent, or the user gave up
		<-served
	}()
	res, err := c.Authorize(ctx, provider, client.AuthorizeRequest{LocalPort: l.Addr().(*net.TCPAddr).Port})
	if err != nil {
		return api.UserWithCreds{}, err
	}
	title := strings.ToUpper(provider[:1]) + provider[1:]
	text := fmt.Sprintf("Your browser has been opened to log in with %s:", title)
	if o.Open == nil || o.Open(ctx, res.AuthorizationURL) != nil {
		text = fmt.Sprintf("Open the URL to log in with %s:", title)
	}
	o.Printf("%s\n\n%s\n\n", text, res.AuthorizationURL)
	select {
	case u := <-result:
		return u, nil
	case err := <-failed:
		return api.UserWithCreds{}, fmt.Errorf("CLI authentication failed: %w", err)
	case <-ctx.Done():
		return api.UserWithCreds{}, context.Cause(ctx)
	}
}

func callback(ctx context.Context, c *program.Conn, provider string, result chan<- api.UserWithCreds, failed chan<- error) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /auth/callback", func(w http.ResponseWriter, r *http.Request) {
		code, state := r.FormValue("code"), r.FormValue("state")
		if code == "" || state == "" {
			http.Error(w, "CLI authentication failed", http.StatusBadRequest)
			return
		}
		u, err := c.AuthCallback(ctx, provider, client.AuthCallbackRequest{Code: code, State: state})
		if err != nil {
			http.Error(w, "CLI authentication failed", http.StatusBadRequest)
			select {
			case failed <- err:
			default: // told already
			}
			return
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = w.Write([]byte("<!doctype html><title>dstack</title><p>You are logged in. You can close this page.")) // the browser left
		select {
		case result <- u:
		default: // a second visit
		}
	})
	return mux
}

// save adds the user's projects to the client's configuration and chooses the default one.
func (o Options) save(ctx context.Context, base, token string) error {
	c, err := o.Dial(program.Target{URL: base, Token: token})
	if err != nil {
		return err
	}
	joined := false
	projects, err := c.ListProjects(ctx, api.ListProjectsRequest{IncludeNotJoined: &joined})
	if err != nil {
		return err
	}
	if len(projects) == 0 {
		o.Println("No projects configured. Create a project on the server, then run `dstack login` again or add it with `dstack project add`.")
		return nil
	}
	names := make([]string, len(projects))
	for i, p := range projects {
		names[i] = p.ProjectName
	}
	configured, err := o.Dir().Load()
	if err != nil {
		o.Say(err.Error())
	}
	def, err := o.defaultProject(ctx, names, configured)
	if err != nil {
		return err
	}
	err = o.Dir().Update(func(ps []clientconfig.Project) []clientconfig.Project {
		for _, n := range names {
			ps = clientconfig.Put(ps, clientconfig.Project{Name: n, URL: base, Token: token, Default: n == def})
		}
		return ps
	})
	if err != nil {
		return err
	}
	o.Printf("Added %s projects at %s\n", strings.Join(names, ", "), o.Dir().Path())
	if def != "" {
		o.Printf("Set %s project as default at %s\n", def, o.Dir().Path())
	}
	return nil
}

// defaultProject is the one to make the default, "" to leave that as it is.
func (o Options) defaultProject(ctx context.Context, names []string, configured []clientconfig.Project) (string, error) {
	current, exists := clientconfig.Find(configured, "")
	switch {
	case o.No:
		return "", nil
	case o.Yes || len(names) == 1 && len(configured) == 0:
		return names[0], nil
	case !o.InTTY && exists && slices.Contains(names, current.Name):
		return current.Name, nil
	case !o.InTTY && exists:
		return "", nil
	case !o.InTTY:
		return names[0], nil
	}
	n, err := o.Choose(ctx, "Select the default project:", names, max(slices.Index(names, cmp.Or(current.Name, names[0])), 0), "-y or -n")
	if err != nil {
		return "", err
	}
	return names[n], nil
}

// openBrowser asks the system to show an address.
func openBrowser(ctx context.Context, address string) error {
	command := "xdg-open"
	args := []string{address}
	switch runtime.GOOS {
	case "darwin":
		command = "open"
	case "windows":
		command, args = "rundll32", []string{"url.dll,FileProtocolHandler", address}
	}
	return exec.CommandContext(context.WithoutCancel(ctx), command, args...).Run()
}
