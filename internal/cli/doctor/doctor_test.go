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
		"a broken record": {
			doctor: api.Doctor{Resources: []api.DoctorResource{broken}, HourlyUSD: 2.5, UnconfirmedUSD: 2.5},
			want: ` PROJECT  FOR    KIND      BACKEND             RESOURCE  STATE   PRICE/H  COST  CREATED  REMARK
 main     gpu-0  instance  lambda (us-west-1)  i-1       broken  $2.5     $5    now      record x is broken

In all $2.5 per hour, of which $2.5 could not be confirmed.
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
