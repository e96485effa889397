package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"

	"dstack/internal/api"
	"dstack/internal/blobstore"
	"dstack/internal/config"
	"dstack/internal/event"
	"dstack/internal/project"
	"dstack/internal/user"
)

// routes is the whole API.
func (s *Server) routes() []route {
	return []route{
		{"GET /healthcheck", public, static(map[string]string{"status": "running"})},
		{"GET /readyz", public, typed[struct{}, map[string]string](ready).refused(http.StatusServiceUnavailable)},
		{"POST /api/server/get_info", public, static(api.ServerInfo{ServerVersion: ptr(api.Version)})},
		{"POST /api/server/doctor", globalAdmin, forUser(s.doctor)},
		{"POST /api/server/doctor/forget", globalAdmin, forUser(s.forget)},
		{"GET /openapi.json", public, typed[struct{}, map[string]any](s.openapiHandler())},
		{"GET /{$}", public, typed[struct{}, string](page(homeHTML)).written("text/html")},
		{"GET /redoc", public, typed[struct{}, string](page(docsHTML)).written("text/html")},
		{"GET /api/docs", public, typed[struct{}, string](page(docsHTML)).written("text/html")},
		{"GET /schemas/{file}", public, typed[struct{}, map[string]any](schemaFile).refused(http.StatusNotFound)},
		{"GET /metrics", public, typed[struct{}, string](prometheusHandler).written("text/plain").refused(http.StatusForbidden, http.StatusNotFound)},

		{"POST /api/users/list", anyUser, forUser(s.users.List).answers(reflect.TypeFor[[]api.User](), reflect.TypeFor[api.UsersInfoList]())},
		{"POST /api/users/get_my_user", anyUser, forUser(s.users.Me)},
		{"POST /api/users/get_user", anyUser, forUser(s.users.Get)},
		{"POST /api/users/create", globalAdmin, forUser(s.users.Create)},
		{"POST /api/users/update", globalAdmin, forUser(locksOut(s, s.users.Update))},
		{"POST /api/users/refresh_ssh_key", anyUser, forUser(s.users.RefreshKey)},
		{"POST /api/users/refresh_token", anyUser, forUser(locksOut(s, s.users.RefreshToken))},
		{"POST /api/users/delete", globalAdmin, forUser(locksOut(s, s.users.Delete))},
		{"POST /api/users/public_keys/list", anyUser, forUser(s.users.Keys)},
		{"POST /api/users/public_keys/add", anyUser, forUser(s.users.AddKey)},
		{"POST /api/users/public_keys/delete", anyUser, forUser(s.users.DeleteKeys)},
		{"POST /api/auth/list_providers", public, static([]string{})},
		{"POST /api/auth/get_next_redirect", public, typed[redirectRequest, redirect](nextRedirect)},

		{"POST /api/projects/list", anyUser, forUser(s.projects.List).answers(reflect.TypeFor[[]api.Project](), reflect.TypeFor[api.ProjectsInfoList]())},
		{"POST /api/projects/list_only_no_fleets", anyUser, forUser(s.projectsWithoutFleets)},
		{"POST /api/projects/create", anyUser, forUser(s.projects.Create)},
		{"POST /api/projects/delete", anyUser, forUser(locksOut(s, s.projects.Delete))},
		{"POST /api/projects/{project}/get", memberOrPublic, inProject(s.projects.Get)},
		{"POST /api/projects/{project}/set_members", projectManager, inProject(locksOut(s, s.projects.SetMembers))},
		{"POST /api/projects/{project}/add_members", managerOrPublic, inProject(s.projects.AddMembers)},
		{"POST /api/projects/{project}/remove_members", projectMember, inProject(locksOut(s, s.projects.RemoveMembers))},
		{"POST /api/projects/{project}/update", projectAdmin, inProject(s.projects.Update)},

		{"POST /api/backends/list_types", public, static(api.BackendTypes())},
		{"POST /api/project/{project}/backends/create", projectAdmin, typed[settings, settings](saveBackendJSON(true))},
		{"POST /api/project/{project}/backends/update", projectAdmin, typed[settings, settings](saveBackendJSON(false))},
		{"POST /api/project/{project}/backends/delete", projectAdmin, inProject(s.deleteBackends)},
		{"POST /api/project/{project}/backends/create_yaml", projectAdmin, inProject(s.createBackendYAML)},
		{"POST /api/project/{project}/backends/update_yaml", projectAdmin, inProject(s.updateBackendYAML)},
		{"POST /api/project/{project}/backends/{backend_name}/config_info", projectAdmin, typed[struct{}, settings](backendInfo(false))},
		{"POST /api/project/{project}/backends/{backend_name}/get_yaml", projectAdmin, typed[struct{}, backendYAML](backendInfo(true))},

		{"POST /api/fleets/list", anyUser, forUser(s.fleets.List)},
		{"POST /api/project/{project}/fleets/list", projectMember, inProject(s.fleets.ListProject)},
		{"POST /api/project/{project}/fleets/get", fleetAccess, inProject(s.getFleet)},
		{"POST /api/project/{project}/fleets/get_plan", projectMember, inProject(s.fleets.Plan)},
		{"POST /api/project/{project}/fleets/apply", projectMember, inProject(s.fleets.Apply)},
		{"POST /api/project/{project}/fleets/delete", projectMember, inProject(s.fleets.Delete)},
		{"POST /api/project/{project}/fleets/delete_instances", projectMember, inProject(s.fleets.DeleteInstances)},

		{"POST /api/instances/list", anyUser, forUser(s.fleets.ListInstances)},
		{"POST /api/project/{project}/instances/get", instanceAccess, inProject(s.getInstance)},
		{"POST /api/project/{project}/instances/get_instance_health_checks", projectMember, inProject(s.healthChecks)},

		{"POST /api/project/{project}/repos/list", projectMember, inProject(s.repos.List)},
		{"POST /api/project/{project}/repos/get", projectMember, inProject(s.repos.Get)},
		{"POST /api/project/{project}/repos/init", projectMember, inProject(s.repos.Init)},
		{"POST /api/project/{project}/repos/delete", projectMember, inProject(s.repos.Delete)},
		{"POST /api/project/{project}/repos/upload_code", projectMember, typed[upload, *struct{}](uploadCode).asks(reflect.TypeFor[uploadQuery]())},
		{"POST /api/files/get_archive_by_hash", anyUser, forUser(s.repos.ArchiveByHash)},
		{"POST /api/files/upload_archive", anyUser, typed[upload, api.FileArchive](uploadArchive)},

		{"POST /api/runs/list", anyUser, forUser(s.runs.List)},
		{"POST /api/project/{project}/runs/get", projectMember, inProject(s.getRun)},
		{"POST /api/project/{project}/runs/get_plan", projectMember, typed[api.GetRunPlanRequest, api.RunPlan](planRun)},
		{"POST /api/project/{project}/runs/apply", projectMember, typed[api.ApplyRunPlanRequest, api.Run](applyRun)},
		{"POST /api/project/{project}/runs/stop", projectMember, inProject(s.runs.Stop)},
		{"POST /api/project/{project}/runs/delete", projectMember, inProject(s.runs.Delete)},
		{"POST /api/project/{project}/runs/watch", projectMember, inProject(s.watchRun)},
		{"POST /api/project/{project}/logs/poll", projectMember, inProject(s.runs.PollLogs)},
		{"POST /api/project/{project}/logs/stream", projectMember, typed[api.StreamLogsRequest, api.LogChunk](streamLogs).written("application/x-ndjson")},

		{"POST /api/project/{project}/secrets/list", secretManager, inProject(s.secrets.List)},
		{"POST /api/project/{project}/secrets/get", secretManager, inProject(s.secrets.Get)},
		{"POST /api/project/{project}/secrets/create_or_update", secretManager, inProject(s.secrets.Set)},
		{"POST /api/project/{project}/secrets/delete", secretManager, inProject(s.secrets.Delete)},

		{"POST /api/costs/get", anyUser, forUser(s.costs.Report)},
		{"POST /api/events/list", anyUser, forUser(s.listEvents)},

		{"POST /api/project/{project}/gpus/list", projectMember, inProject(s.runs.GPUs)},
		{"GET /api/project/{project}/metrics/job/{run}", projectMember, typed[struct{}, api.JobMetrics](jobMetrics).asks(reflect.TypeFor[metricsQuery]())},
		{"POST /api/project/{project}/templates/list", projectMember, inProject(s.listTemplates)},

		{"POST /api/sshproxy/get_upstream", sshProxy, typed[upstreamRequest, upstream](sshUpstream)},
		{"POST /api/volumes/list", anyUser, forUser(s.volumes.List)},
		{"POST /api/project/{project}/volumes/list", projectMember, inProject(s.volumes.ListProject)},
		{"POST /api/project/{project}/volumes/get", projectMember, inProject(s.volumes.Get)},
		{"POST /api/project/{project}/volumes/create", projectMember, inProject(s.volumes.Create)},
		{"POST /api/project/{project}/volumes/delete", projectMember, inProject(s.volumes.Delete)},
		{"POST /api/project/{project}/gateways/list", memberOrPublic, inProject(s.gateways.List)},
		{"POST /api/project/{project}/gateways/get", gatewayAccess, inProject(s.getGateway)},
		{"POST /api/project/{project}/gateways/get_plan", projectAdmin, typed[api.GetGatewayPlanRequest, api.GatewayPlan](planGateway)},
		{"POST /api/project/{project}/gateways/apply", projectAdmin, typed[api.ApplyGatewayPlanRequest, api.Gateway](applyGateway)},
		{"POST /api/project/{project}/gateways/create", projectAdmin, typed[api.CreateGatewayRequest, api.Gateway](createGateway)},
		{"POST /api/project/{project}/gateways/delete", projectAdmin, inProject(s.gateways.Delete)},
		{"POST /api/project/{project}/gateways/set_default", projectAdmin, inProject(s.gateways.SetDefault)},
		{"POST /api/project/{project}/gateways/set_wildcard_domain", projectAdmin, inProject(s.gateways.SetWildcardDomain)},
		{"POST /api/project/{project}/exports/list", projectMember, inProject(s.exports.List)},
		{"POST /api/project/{project}/exports/create", projectAdmin, inProject(s.exports.Create)},
		{"POST /api/project/{project}/exports/update", projectAdmin, inProject(s.exports.Update)},
		{"POST /api/project/{project}/exports/delete", projectAdmin, inProject(s.exports.Delete)},
		{"POST /api/project/{project}/imports/list", projectMember, inProject(s.exports.Imports)},
		{"POST /api/project/{project}/imports/delete", projectAdmin, inProject(s.exports.DeleteImport)},

		{"GET /proxy/models/{project}/models", public, typed[struct{}, modelList](listModels).byProxy()},
		{"POST /proxy/models/{project}/chat/completions", public, typed[chatRequest, map[string]any](chat).byProxy().passedOn()},
		{"GET /proxy/services/{project}/{run}", public, proxied},
		{"HEAD /proxy/services/{project}/{run}", public, proxied},
		{"POST /proxy/services/{project}/{run}", public, proxied},
		{"PUT /proxy/services/{project}/{run}", public, proxied},
		{"DELETE /proxy/services/{project}/{run}", public, proxied},
		{"PATCH /proxy/services/{project}/{run}", public, proxied},
		{"GET /proxy/services/{project}/{run}/{path...}", public, proxied},
		{"HEAD /proxy/services/{project}/{run}/{path...}", public, proxied},
		{"POST /proxy/services/{project}/{run}/{path...}", public, proxied},
		{"PUT /proxy/services/{project}/{run}/{path...}", public, proxied},
		{"DELETE /proxy/services/{project}/{run}/{path...}", public, proxied},
		{"PATCH /proxy/services/{project}/{run}/{path...}", public, proxied},
		{"OPTIONS /proxy/services/{project}/{run}/{path...}", public, proxied},
	}
}

func ptr[T any](v T) *T { return &v }

// static answers the same always.
func static[Out any](v Out) endpoint {
	return typed[struct{}, Out](func(_ *Server, _ caller, w http.ResponseWriter, _ *http.Request) error {
		encode(w, http.StatusOK, v)
		return nil
	})
}

func (s *Server) listEvents(ctx context.Context, u user.User, r api.ListEventsRequest) ([]api.Event, error) {
	v := event.Viewer{UserID: u.ID, Admin: u.Admin()}
	if !v.Admin {
		projects, err := s.projects.Of(ctx, u)
		if err != nil {
			return nil, err
		}
		for id := range projects {
			v.Projects = append(v.Projects, id)
		}
	}
	return event.List(ctx, s.db.Read(), v, r)
}

// codeLimit bounds uploads, in bytes (DSTACK_SERVER_CODE_UPLOAD_LIMIT).
const codeLimit = 2 << 20

// part finds the one file of a multipart upload; its name is the content's hash. What is no form has
// no file.
func part(w http.ResponseWriter, r *http.Request, limit int64, what string) (name string, body io.Reader, err error) {
	if limit > 0 && r.ContentLength > limit {
		return "", nil, api.Invalid("%s size is %s, which exceeds the limit of %s. Use .gitignore/.dstackignore to exclude large files. This limit can be modified by setting the DSTACK_SERVER_CODE_UPLOAD_LIMIT environment variable.", what, size(r.ContentLength), size(limit))
	}
	if limit > 0 {
		r.Body = http.MaxBytesReader(w, r.Body, limit)
	}
	within(w, uploadTimeout)
	mr, err := r.MultipartReader()
	if errors.Is(err, http.ErrMissingBoundary) {
		return "", nil, api.Invalid("Missing boundary in multipart.")
	}
	if err != nil {
		return "", nil, noFile("missing", "Field required")
	}
	for {
		p, err := mr.NextPart()
		switch {
		case err != nil:
			return "", nil, noFile("missing", "Field required")
		case p.FormName() == "file" && p.FileName() == "":
			return "", nil, noFile("value_error", "Value error, the part named file is no file: it has no file name")
		case p.FormName() == "file":
			return p.FileName(), p, nil
		}
	}
}

func noFile(kind, msg string) error {
	return &config.Errors{Problems: []config.Problem{{Loc: []any{"body", "file"}, Type: kind, Msg: msg}}}
}

func size(n int64) string {
	f, units := float64(n), []string{"B", "KiB", "MiB", "GiB", "TiB"}
	for i, u := range units {
		if f < 1024 || i == len(units)-1 {
			return fmt.Sprintf("%3.1f%s", f, u)
		}
		f /= 1024
	}
	return ""
}

func (s *Server) uploadError(err error) error {
	var big *blobstore.TooLargeError
	var body *http.MaxBytesError
	var down *blobstore.UnavailableError
	if errors.As(err, &down) && !errors.Is(err, context.Canceled) {
		s.Log.Error("an upload cannot be stored", "err", down.Err)
		return api.Invalid("%v", down)
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return api.Invalid("The upload ended before its end: send it again")
	}
	if errors.As(err, &big) || errors.As(err, &body) {
		return api.Invalid("The upload is larger than allowed. This limit can be modified by setting the DSTACK_SERVER_CODE_UPLOAD_LIMIT environment variable.")
	}
	return err
}

// uploadQuery is what the address says of an upload.
type uploadQuery struct {
	RepoID string `json:"repo_id" cfg:"req"`
}

func uploadCode(s *Server, c caller, w http.ResponseWriter, r *http.Request) error {
	var q uploadQuery
	wrong := config.DecodeQuery(r.URL.Query(), &q)
	name, body, err := part(w, r, s.CodeLimit, "Repo diff")
	err = config.Join(wrong, err)
	if err == nil {
		err = s.uploadError(s.repos.UploadCode(r.Context(), c.Scope, q.RepoID, name, body))
	}
	if err == nil {
		encode(w, http.StatusOK, nil)
	}
	return err
}

func uploadArchive(s *Server, c caller, w http.ResponseWriter, r *http.Request) error {
	name, body, err := part(w, r, s.CodeLimit, "Archive")
	if err != nil {
		return err
	}
	a, err := s.repos.UploadArchive(r.Context(), c.User, name, body)
	if err != nil {
		return s.uploadError(err)
	}
	encode(w, http.StatusOK, a)
	return nil
}

// watchRun answers at once when the server stops: the client asks again.
func (s *Server) watchRun(ctx context.Context, sc project.Scope, r api.WatchRunRequest) (api.WatchRunResponse, error) {
	ctx, cancel := s.untilStopping(ctx)
	defer cancel()
	return s.runs.Watch(ctx, sc, r)
}

// streamLogs follows a log as lines of JSON.
func streamLogs(s *Server, c caller, w http.ResponseWriter, r *http.Request) error {
	var in api.StreamLogsRequest
	if err := decode(w, r, &in); err != nil {
		return err
	}
	ctx, cancel := s.untilStopping(r.Context())
	defer cancel()
	started := false
	tell := func(write func() error) error {
		if !started {
			w.Header().Set("Content-Type", "application/x-ndjson")
			started = true
		}
		if err := write(); err != nil {
			return err
		}
		return http.NewResponseController(w).Flush()
	}
	enc := json.NewEncoder(w)
	err := s.runs.StreamLogs(ctx, c.Scope, in, func(chunk api.LogChunk) error {
		return tell(func() error { return enc.Encode(chunk) })
	}, func() error {
		return tell(func() error { _, err := io.WriteString(w, "\n"); return err }) // clients leave out empty lines
	})
	if started {
		return nil // the client sees that the end is missing
	}
	return err
}
