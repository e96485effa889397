package doctor

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/api"
	"dstack/internal/cli/program"
	"dstack/internal/cli/term"
)

func TestDoctor(t *testing.T) {
	machine := api.DoctorResource{
		Project: "main", Kind: "instance", Name: "gpu-0", Backend: "lambda", Region: "us-west-1", ID: "i-1",
		Verdict: "confirmed", HourlyUSD: 2.5, CostUSD: 5, Since: api.At(time.Now()),
	}
	stray := machine
	stray.ID, stray.Name, stray.Verdict = "i-2", "", "unexplained"
	broken := machine
	broken.Verdict, broken.Message = "broken", "record x is broken"
	lost := machine
	lost.Verdict, lost.Forgettable, lost.Intent = "unconfirmed", true, "x"
	group := machine
	group.Kind, group.Name, group.ID, group.HourlyUSD, group.CostUSD = "placement", "gpu", "pg-1", 0, 0
	for name, tt := range map[string]struct {
		doctor api.Doctor
		want   string
		err    string
	}{
		"nothing": {want: "Nothing that costs money exists.\n"},
		"all is well": {
			doctor: api.Doctor{Resources: []api.DoctorResource{machine}, HourlyUSD: 2.5},
			want: ` PROJECT  FOR    KIND      BACKEND             RESOURCE  STATE      PRICE/H  COST  CREATED  REMARK
 main     gpu-0  instance  lambda (us-west-1)  i-1       confirmed  $2.5     $5    now

In all $2.5 per hour, of which $0 could not be confirmed.
`,
		},
		"a placement group costs nothing": {
			doctor: api.Doctor{Resources: []api.DoctorResource{machine, group}, HourlyUSD: 2.5},
			want: ` PROJECT  FOR    KIND       BACKEND             RESOURCE  STATE      PRICE/H  COST  CREATED  REMARK
 main     gpu-0  instance   lambda (us-west-1)  i-1       confirmed  $2.5     $5    now
 main     gpu    placement  lambda (us-west-1)  pg-1      confirmed  $0       $0    now

In all $2.5 per hour, of which $0 could not be confirmed.
`,
		},
		"doubts": {
			doctor: api.Doctor{
				Resources: []api.DoctorResource{stray}, HourlyUSD: 2.5, UnconfirmedUSD: 2.5,
				Accounts: []api.DoctorAccount{{Project: "main", Backend: "aws", Error: "no answer"}},
			},
			want: ` PROJECT  FOR  KIND      BACKEND             RESOURCE  STATE        PRICE/H  COST  CREATED  REMARK
 main          instance  lambda (us-west-1)  i-2       unexplained  $2.5     $5    now

In all $2.5 per hour, of which $2.5 could not be confirmed.
Backend aws of project main could not be asked: no answer
`,
			err: "2 of 2 need a look",
		},
		"what cannot be read": {
			doctor: api.Doctor{
				Resources: []api.DoctorResource{machine}, HourlyUSD: 2.5,
				Accounts: []api.DoctorAccount{{Project: "main", Backend: "lambda", Unread: "it lists what cannot be read: price is free"}},
			},
			want: ` PROJECT  FOR    KIND      BACKEND             RESOURCE  STATE      PRICE/H  COST  CREATED  REMARK
 main     gpu-0  instance  lambda (us-west-1)  i-1       confirmed  $2.5     $5    now

In all $2.5 per hour, of which $0 could not be confirmed.
Backend lambda of project main was not understood: it lists what cannot be read: price is free
`,
			err: "1 of 2 need a look",
		},
		"a broken record": {
			doctor: api.Doctor{Resources: []api.DoctorResource{broken}, HourlyUSD: 2.5, UnconfirmedUSD: 2.5},
			want: ` PROJECT  FOR    KIND      BACKEND             RESOURCE  STATE   PRICE/H  COST  CREATED  REMARK
 main     gpu-0  instance  lambda (us-west-1)  i-1       broken  $2.5     $5    now      record x is broken

In all $2.5 per hour, of which $2.5 could not be confirmed.
`,
			err: "1 of 1 need a look",
		},
		"nobody can be asked": {
			doctor: api.Doctor{Resources: []api.DoctorResource{lost}, HourlyUSD: 2.5, UnconfirmedUSD: 2.5},
			want: ` PROJECT  FOR    KIND      BACKEND             RESOURCE  STATE        PRICE/H  COST  CREATED  REMARK
 main     gpu-0  instance  lambda (us-west-1)  i-1       unconfirmed  $2.5     $5    now

In all $2.5 per hour, of which $2.5 could not be confirmed.
No credentials answer for i-1. If the provider has deleted it for certain: dstack server doctor --forget x
`,
			err: "1 of 1 need a look",
		},
	} {
		t.Run(name, func(t *testing.T) {
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				_ = json.NewEncoder(w).Encode(tt.doctor)
			}))
			defer srv.Close()
			var out bytes.Buffer
			p := &program.Program{IO: term.New(strings.NewReader(""), &out, &out), Home: t.TempDir()}
			c, err := p.Dial(program.Target{URL: srv.URL, Token: "t", Project: "main"})
			if err != nil {
				t.Fatal(err)
			}
			err = run(t.Context(), p, c, false)
			if tt.err == "" && err != nil || tt.err != "" && (err == nil || err.Error() != tt.err) {
				t.Errorf("error %v, want %q", err, tt.err)
			}
			if diff := cmp.Diff(tt.want, out.String()); diff != "" {
				t.Errorf("output (-want +got):\n%s", diff)
			}
		})
	}
}

// TestForget asks before it has the server forget anything.
func TestForget(t *testing.T) {
	for name, tt := range map[string]struct {
		in, want string
		yes      bool
		status   int
		err      string
		asked    int
	}{
		"agreed":           {in: "y\n", asked: 1, status: 200, want: "Forgot the instance i-1 of lambda (north).\n"},
		"not agreed":       {in: "n\n", want: "Exiting...\n"},
		"without a prompt": {yes: true, asked: 1, status: 200, want: "Forgot the instance i-1 of lambda (north).\n"},
		"refused":          {yes: true, asked: 1, status: 400, err: "it is confirmed"},
	} {
		t.Run(name, func(t *testing.T) {
			asked := 0
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				var req api.ForgetRequest
				if err := json.NewDecoder(r.Body).Decode(&req); err != nil || req.Intent != "x" || r.URL.Path != "/api/server/doctor/forget" {
					t.Errorf("%s %+v, %v", r.URL.Path, req, err)
				}
				asked++
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(tt.status)
				if tt.status != 200 {
					_, _ = w.Write([]byte(`{"detail": [{"msg": "it is confirmed", "code": "error"}]}`))
					return
				}
				_ = json.NewEncoder(w).Encode(api.DoctorResource{Kind: "instance", ID: "i-1", Backend: "lambda", Region: "north"})
			}))
			defer srv.Close()
			var out bytes.Buffer
			p := &program.Program{IO: term.New(strings.NewReader(tt.in), &out, &out), Home: t.TempDir()}
			c, err := p.Dial(program.Target{URL: srv.URL, Token: "t", Project: "main"})
			if err != nil {
				t.Fatal(err)
			}
			err = giveUp(t.Context(), p, c, "x", tt.yes)
			if tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
				t.Errorf("error %v, want %q", err, tt.err)
			}
			if asked != tt.asked || !strings.HasSuffix(out.String(), tt.want) {
				t.Errorf("asked the server %d times, output %q, want %q", asked, out.String(), tt.want)
			}
		})
	}
}
