package client

import (
	"context"
	"net/url"

	"dstack/internal/api"
)

// GetMyUser returns the user whose token this is, with keys.
func (c *Client) GetMyUser(ctx context.Context) (api.UserWithCreds, error) {
	return answer[api.UserWithCreds](ctx, c, "/api/users/get_my_user", nil)
}

// Doctor returns what costs money and how sure the server is of it.
func (c *Client) Doctor(ctx context.Context) (api.Doctor, error) {
	return answer[api.Doctor](ctx, c, "/api/server/doctor", nil)
}

// Forget has the server give up a resource by its intent.
func (c *Client) Forget(ctx context.Context, intent string) (api.DoctorResource, error) {
	return answer[api.DoctorResource](ctx, c, "/api/server/doctor/forget", api.ForgetRequest{Intent: intent})
}

// GetProject returns a project.
func (c *Client) GetProject(ctx context.Context, project string) (api.Project, error) {
	return answer[api.Project](ctx, c, "/api/projects/"+url.PathEscape(project)+"/get", nil)
}

// ListProjects returns the projects of the user.
func (c *Client) ListProjects(ctx context.Context, req api.ListProjectsRequest) ([]api.Project, error) {
	return answer[[]api.Project](ctx, c, "/api/projects/list", req)
}

// ListAuthProviders returns the providers to log in with.
func (c *Client) ListAuthProviders(ctx context.Context) ([]AuthProvider, error) {
	return answer[[]AuthProvider](ctx, c, "/api/auth/list_providers", nil)
}

// Authorize begins to log in with a provider.
func (c *Client) Authorize(ctx context.Context, provider string, req AuthorizeRequest) (AuthorizeResponse, error) {
	return answer[AuthorizeResponse](ctx, c, "/api/auth/"+url.PathEscape(provider)+"/authorize", req)
}

// AuthCallback ends logging in.
func (c *Client) AuthCallback(ctx context.Context, provider string, req AuthCallbackRequest) (api.UserWithCreds, error) {
	return answer[api.UserWithCreds](ctx, c, "/api/auth/"+url.PathEscape(provider)+"/callback", req)
}

// GetRepo returns a repository, with the user's credentials if asked.
func (c *Client) GetRepo(ctx context.Context, project string, req api.GetRepoRequest) (api.RepoHeadWithCreds, error) {
	return answer[api.RepoHeadWithCreds](ctx, c, in(project, "repos/get"), req)
}

// InitRepo tells the server about a repository.
func (c *Client) InitRepo(ctx context.Context, project string, req api.InitRepoRequest) error {
	return c.post(ctx, in(project, "repos/init"), req, nil)
}

// GetArchiveByHash returns the user's archive with that content.
func (c *Client) GetArchiveByHash(ctx context.Context, req api.GetArchiveRequest) (api.FileArchive, error) {
	return answer[api.FileArchive](ctx, c, "/api/files/get_archive_by_hash", req)
}
