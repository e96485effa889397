package collect

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

// No error shows what was sent to let us in, also where a provider repeats all of it.
func TestSecretsAreHidden(t *testing.T) {
	values := map[string]string{
		"AWS_ACCESS_KEY_ID": "AKIAEXAMPLEEXAMPLE", "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI", "AWS_SESSION_TOKEN": "IQoJ/session+token==",
		"AZURE_SUBSCRIPTION_ID": "sub-1", "AZURE_TENANT_ID": "tenant-1", "AZURE_CLIENT_ID": "client-1", "AZURE_CLIENT_SECRET": `azure "secret"`,
		"VERDA_CLIENT_ID": "client-1", "VERDA_CLIENT_SECRET": `verda "secret"`, "GCP_API_KEY": "AIzaSyExample", "LAMBDA_API_KEY": "secret_lambda",
		"DIGITAL_OCEAN_API_KEY": "dop_v1_example", "AMD_DEVELOPER_CLOUD_API_KEY": "dop_v1_example", "HOTAISLE_API_KEY": "hotaisle-key", "HOTAISLE_TEAM_HANDLE": "acme",
		"JL_API_KEY": "jarvis-key", "SEEWEB_API_TOKEN": "seeweb-token", "CRUSOE_ACCESS_KEY": "crusoe-access", "CRUSOE_SECRET_KEY": "Y3J1c29lLXNlY3JldA", "CRUSOE_PROJECT_ID": "p",
	}
	shown := []string{"eyJ0eXAi.of-an-hour"} // the token that some get for these
	for _, name := range []string{
		"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AZURE_CLIENT_SECRET", "VERDA_CLIENT_SECRET", "GCP_API_KEY", "LAMBDA_API_KEY",
		"DIGITAL_OCEAN_API_KEY", "HOTAISLE_API_KEY", "JL_API_KEY", "SEEWEB_API_TOKEN", "CRUSOE_ACCESS_KEY", "CRUSOE_SECRET_KEY",
	} {
		shown = append(shown, values[name], strings.ReplaceAll(values[name], `"`, `\"`))
	}
	for _, name := range []string{"aws-spot", "azure", "verda", "gcp", "lambda", "digitalocean", "amddevcloud", "hotaisle", "jarvislabs", "seeweb", "crusoe"} {
		for _, in := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, let in %v", name, in), func(t *testing.T) {
				c := settings(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if in && strings.Contains(r.URL.Path, "token") {
						fmt.Fprintf(w, `{"access_token": %q}`, shown[0])
						return
					}
					body, _ := io.ReadAll(r.Body)
					w.WriteHeader(http.StatusForbidden)
					fmt.Fprintf(w, "sent: %s %s %s", r.Header, body, r.URL)
				}), known(t))
				c.Env = func(name string) string { return values[name] }
				_, err := Collect(t.Context(), c, source(t, name), today)
				if err == nil || !strings.Contains(err.Error(), "403") && !strings.Contains(err.Error(), "credentials rejected: sent: ") {
					t.Fatalf("%v, want what was sent", err)
				}
				for _, secret := range shown {
					if strings.Contains(err.Error(), secret) {
						t.Errorf("%v has %q", err, secret)
					}
				}
			})
		}
	}
}
