package lambda

import (
	"encoding/json"
	"strings"

	"dstack/internal/backend"
)

// setup is what Lambda's image lacks before containers can use its GPUs, as one cloud-init
// document (JSON is YAML).
type setup struct {
	Keys  []string `json:"ssh_authorized_keys,omitempty"`
	Files []file   `json:"write_files"`
	Run   []string `json:"runcmd"`
}

type file struct {
	Path        string `json:"path"`
	Permissions string `json:"permissions"`
	Content     string `json:"content"`
}

// setupFor lets the keys log in and prepares Docker. Containers lose their GPUs when systemd
// reloads, unless Docker manages cgroups itself ("Failed to initialize NVML"): daemon.json
// is written before Docker first starts, so that it need not be restarted under an agent.
// The toolkit is on present images; on older ones it is installed.
func setupFor(keys []string) setup {
	s := setup{
		Files: []file{{
			Path:        "/etc/docker/daemon.json",
			Permissions: "0644",
			Content: `{"exec-opts": ["native.cgroupdriver=cgroupfs"],` +
				` "runtimes": {"nvidia": {"path": "nvidia-container-runtime", "args": []}}}` + "\n",
		}},
		Run: []string{
			"command -v nvidia-container-runtime || { apt-get update && apt-get install -y nvidia-container-toolkit && systemctl restart docker; }",
		},
	}
	for _, k := range keys {
		s.Keys = append(s.Keys, strings.TrimSpace(k))
	}
	return s
}

// boundary separates the parts of user data that has several.
const boundary = "==dstack=="

// userData is the cloud-init document of a request: ours, and after it the caller's.
func userData(req backend.CreateRequest) string {
	text, err := json.Marshal(setupFor(req.SSHKeys))
	if err != nil {
		panic(err) // strings and lists can be encoded
	}
	config := "#cloud-config\n" + string(text) + "\n"
	if req.UserData == "" {
		return config
	}
	kind := "text/cloud-config"
	if strings.HasPrefix(req.UserData, "#!") {
		kind = "text/x-shellscript"
	}
	var b strings.Builder
	b.WriteString("Content-Type: multipart/mixed; boundary=\"" + boundary + "\"\nMIME-Version: 1.0\n\n")
	part := func(kind, text string) {
		b.WriteString("--" + boundary + "\nContent-Type: " + kind + "\nMerge-Type: list(append)+dict(recurse_array)+str()\n\n" + text + "\n")
	}
	part("text/cloud-config", config)
	part(kind, req.UserData)
	b.WriteString("--" + boundary + "--\n")
	return b.String()
}
