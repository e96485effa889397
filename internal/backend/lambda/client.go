package lambda

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"dstack/internal/backend"
)

const (
	defaultEndpoint = "https://cloud.lambda.ai"
	// callTimeout bounds one call, the wait for its turn and its repetitions included. The
	// launch call is the slowest: it was seen to take half a minute.
	callTimeout = 2 * time.Minute
	// maxAnswer bounds an answer, in bytes: an instance is 2 KB, an account has hundreds.
	maxAnswer = 16 << 20
	// maxID bounds ids and names, in bytes: an id has 32.
	maxID = 200
	// Lambda's published limits: one request a second, one launch in twelve. Requests keep a
	// tenth more, since the network brings them closer together than they were sent.
	requestEvery = 1100 * time.Millisecond
	launchEvery  = 12 * time.Second
	// requestPatience bounds the wait for a turn to send a request, within its deadline.
	requestPatience = time.Minute
)

var errNoAnswer = errors.New("lambda did not answer in time")

// client speaks the part of the Lambda Cloud API that the backend needs. It does no more
// than one request per call, paced, bounded in time and size.
type client struct {
	http     *http.Client
	endpoint string // without trailing slash
	key      backend.Secret
	requests *pace

	// One list answers all that asked before it was sent: at one request a second, asking for
	// each of a hundred booting machines would take all the time there is.
	asked   atomic.Int64  // questions so far
	turn    chan struct{} // holds a token while nobody lists; guards what follows
	listed  []instance    // the last list
	answers int64         // the questions that it answers: up to this one
}

func newClient(c Config, endpoint string, transport http.RoundTripper) *client {
	api := &client{
		http: &http.Client{Transport: transport, CheckRedirect: stay}, endpoint: endpoint, key: c.Creds.APIKey,
		requests: &pace{every: requestEvery}, turn: make(chan struct{}, 1),
	}
	api.turn <- struct{}{}
	return api
}

// stay follows no redirect: the API has none, and the key is for nobody else.
func stay(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// named is a reference by name, with a description that nobody needs.
type named struct {
	Name string `json:"name"`
}

// UnmarshalJSON implements json.Unmarshaler: what is no region is one without a name.
func (n *named) UnmarshalJSON(data []byte) error {
	*n = named{}
	backend.Take(backend.ReadFields(data), "name", &n.Name)
	return nil
}

type instanceType struct {
	Name, Description         string
	Cents                     float64 // an hour
	VCPUs, MemoryGiB, Storage int
	unread                    []backend.Unread
}

// UnmarshalJSON implements json.Unmarshaler.
func (t *instanceType) UnmarshalJSON(data []byte) error {
	*t = instanceType{}
	f := backend.ReadFields(data)
	backend.Take(f, "name", &t.Name)
	backend.Take(f, "description", &t.Description)
	backend.Take(f, "price_cents_per_hour", &t.Cents)
	var specs json.RawMessage
	if backend.Take(f, "specs", &specs); specs != nil {
		s := backend.ReadFields(specs)
		backend.Take(s, "vcpus", &t.VCPUs)
		backend.Take(s, "memory_gib", &t.MemoryGiB)
		backend.Take(s, "storage_gib", &t.Storage)
		f.Within("specs", s.Unread)
	}
	t.unread = f.Unread
	return nil
}

// typeItem is an instance type and where it can be had now.
type typeItem struct {
	Type   instanceType
	Within []named
}

// UnmarshalJSON implements json.Unmarshaler.
func (i *typeItem) UnmarshalJSON(data []byte) error {
	*i = typeItem{}
	f := backend.ReadFields(data)
	backend.Take(f, "instance_type", &i.Type)
	backend.TakeAll(f, "regions_with_capacity_available", &i.Within)
	f.Within("instance_type", i.Type.unread)
	i.Type.unread = f.Unread
	return nil
}

type tag struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

type instance struct {
	ID, Name, IP, PrivateIP, Status string
	Keys                            []string
	Region                          named
	Type                            instanceType
	Tags                            []tag
	fields                          *backend.Fields
}

// UnmarshalJSON implements json.Unmarshaler. One machine with a price in words must not keep the account's
// others from being found and ended.
func (i *instance) UnmarshalJSON(data []byte) error {
	*i = instance{fields: backend.ReadFields(data)}
	f := i.fields
	backend.Take(f, "id", &i.ID)
	backend.Take(f, "name", &i.Name)
	backend.Take(f, "ip", &i.IP)
	backend.Take(f, "private_ip", &i.PrivateIP)
	backend.Take(f, "status", &i.Status)
	backend.Take(f, "ssh_key_names", &i.Keys)
	backend.Take(f, "region", &i.Region)
	backend.Take(f, "instance_type", &i.Type)
	backend.TakeAll(f, "tags", &i.Tags)
	f.Within("instance_type", i.Type.unread)
	for _, s := range []*string{&i.ID, &i.Region.Name} {
		if !plain(*s) {
			*s = ""
		}
	}
	return nil
}

// hidden says that this may be a server's, and cannot be listed as such: it does not say whose it is, which
// one it is, or which of ours.
func (i instance) hidden(serverID string) bool {
	switch owner := i.tag(backend.TagServer); {
	case owner == serverID:
		return i.ID == "" || i.fields.Lacks("tags") && i.fields.Lacks("name") && i.tag(backend.TagIntent) == ""
	case owner != "":
		return false
	}
	return i.fields.Lacks("tags") || len(i.Tags) == 0 && (i.ID == "" || i.Status == "" || i.Region.Name == "")
}

// strange says what of it cannot be read, "" for nothing.
func (i instance) strange() string {
	what := make([]string, len(i.fields.Unread))
	for n, u := range i.fields.Unread {
		what[n] = u.String()
	}
	if i.ID != "" && i.Region.Name == "" && !i.fields.Lacks("region") {
		what = append(what, "it has no region")
	}
	if len(what) == 0 && i.ID == "" {
		what = append(what, "it has no id")
	}
	return strings.Join(what, ", ")
}

// plain says that a text can be an id or a name of Lambda's, which become columns of the database: those
// take no NUL, say.
func plain(s string) bool {
	return s != "" && len(s) <= maxID && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
}

// tag returns the value of a tag, "" when there is none, or one that can be none of ours.
func (i instance) tag(key string) string {
	for _, t := range i.Tags {
		if t.Key == key && plain(t.Value) {
			return t.Value
		}
	}
	return ""
}

func (i instance) mark() backend.Mark {
	return backend.Mark{IntentID: i.tag(backend.TagIntent), Name: i.Name}
}

type sshKey struct{ ID, Name, Public string }

// UnmarshalJSON implements json.Unmarshaler: what is no key is one without a name.
func (k *sshKey) UnmarshalJSON(data []byte) error {
	*k = sshKey{}
	f := backend.ReadFields(data)
	backend.Take(f, "id", &k.ID)
	backend.Take(f, "name", &k.Name)
	backend.Take(f, "public_key", &k.Public)
	return nil
}

// launch is the body of a launch request.
type launch struct {
	Region   string   `json:"region_name"`
	Type     string   `json:"instance_type_name"`
	Keys     []string `json:"ssh_key_names"`
	Name     string   `json:"name"`
	UserData string   `json:"user_data,omitempty"`
	Tags     []tag    `json:"tags"`
}

func (c *client) types(ctx context.Context) (map[string]typeItem, error) {
	return call[map[string]typeItem](ctx, c, http.MethodGet, "/instance-types", nil)
}

func (c *client) regions(ctx context.Context) ([]named, error) {
	return call[[]named](ctx, c, http.MethodGet, "/regions", nil)
}

// instances lists all instances of the account, as of after the call. Callers share the
// list and must not change it.
func (c *client) instances(ctx context.Context) ([]instance, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, callTimeout, errNoAnswer)
	defer cancel()
	question := c.asked.Add(1)
	select {
	case <-c.turn:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { c.turn <- struct{}{} }()
	if question <= c.answers {
		return c.listed, nil
	}
	if err := c.requests.wait(ctx, requestPatience); err != nil {
		return nil, err
	}
	questions := c.asked.Load()
	all, err := exchange[[]instance](ctx, c, http.MethodGet, "/instances", nil)
	if err != nil {
		return nil, err
	}
	c.listed, c.answers = all, questions
	return all, nil
}

func (c *client) instance(ctx context.Context, id string) (instance, error) {
	i, err := call[instance](ctx, c, http.MethodGet, "/instances/"+url.PathEscape(id), nil)
	if err == nil && i.ID != id {
		err = fmt.Errorf("lambda answers with instance %q", i.ID)
	}
	return i, err
}

func (c *client) launch(ctx context.Context, l launch) (id string, err error) {
	out, err := call[struct {
		IDs []string `json:"instance_ids"`
	}](ctx, c, http.MethodPost, "/instance-operations/launch", l)
	if err == nil && (len(out.IDs) != 1 || !plain(out.IDs[0])) {
		err = fmt.Errorf("lambda launched %q, asked for one instance", out.IDs)
	}
	if err != nil {
		return "", err
	}
	return out.IDs[0], nil
}

// terminate returns the instances that Lambda says it ended.
func (c *client) terminate(ctx context.Context, id string) ([]instance, error) {
	out, err := call[struct {
		Ended []instance `json:"terminated_instances"`
	}](ctx, c, http.MethodPost, "/instance-operations/terminate", map[string][]string{"instance_ids": {id}})
	return out.Ended, err
}

func (c *client) keys(ctx context.Context) ([]sshKey, error) {
	return call[[]sshKey](ctx, c, http.MethodGet, "/ssh-keys", nil)
}

func (c *client) addKey(ctx context.Context, name, public string) error {
	_, err := call[sshKey](ctx, c, http.MethodPost, "/ssh-keys", map[string]string{"name": name, "public_key": public})
	return err
}

func (c *client) deleteKey(ctx context.Context, id string) error {
	_, err := call[struct{}](ctx, c, http.MethodDelete, "/ssh-keys/"+url.PathEscape(id), nil)
	return err
}

// call waits for its turn, sends one request and reads the data of its answer.
func call[T any](ctx context.Context, c *client, method, path string, in any) (T, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, callTimeout, errNoAnswer)
	defer cancel()
	if err := c.requests.wait(ctx, requestPatience); err != nil {
		var none T
		return none, err
	}
	return exchange[T](ctx, c, method, path, in)
}

// exchange sends one request and reads the data of its answer. An answer without data is an
// error: an empty list that is none would make machines look gone.
func exchange[T any](ctx context.Context, c *client, method, path string, in any) (T, error) {
	var none T
	data, err := c.send(ctx, method, path, in)
	if err != nil {
		return none, fmt.Errorf("%s %s: %w", method, path, err)
	}
	var out struct {
		Data *T `json:"data"`
	}
	if err := json.Unmarshal(data, &out); err != nil {
		return none, fmt.Errorf("%s %s: read the answer: %w", method, path, err)
	}
	if out.Data == nil {
		return none, fmt.Errorf("%s %s: the answer has no data", method, path)
	}
	return *out.Data, nil
}

// send returns the body of a successful answer.
func (c *client) send(ctx context.Context, method, path string, in any) ([]byte, error) {
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("encode the request: %w", err)
		}
		body = bytes.NewReader(data)
	}
	ctx = backend.WithTurns(ctx, func(ctx context.Context) error { return c.requests.wait(ctx, requestPatience) })
	r, err := http.NewRequestWithContext(ctx, method, c.endpoint+"/api/v1"+path, body)
	if err != nil {
		return nil, fmt.Errorf("make the request: %w", err)
	}
	r.Header.Set("Accept", "application/json")
	r.Header.Set("Authorization", "Bearer "+c.key.Reveal())
	if in != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(r)
	if err != nil {
		return nil, caused(ctx, err)
	}
	defer func() { _ = resp.Body.Close() }() // read or not needed
	if resp.StatusCode < 200 || resp.StatusCode >= 300 {
		return nil, readError(resp)
	}
	data, err := backend.ReadBody(resp, maxAnswer)
	if err != nil {
		return nil, caused(ctx, err)
	}
	return data, nil
}

// caused says why ctx ended, when that is why err happened.
func caused(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}
