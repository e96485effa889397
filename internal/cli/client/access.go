package client

import (
	"context"
	"net/url"

	"dstack/internal/api"
)

// GetMyUser returns the user whose token this is, with keys.
func (c *Client) GetMyUser(ctx context.Context) (out api.UserWithCreds, err error) {
	err = c.post(ctx, "/api/users/get_my_user", nil, &out)
	return out, err
}

// Doctor returns what costs money and how sure the server is of it.
func (c *Client) Doctor(ctx context.Context) (out api.Doctor, err error) {
	err = c.post(ctx, "/api/server/doctor", nil, &out)
	return out, err
}

// Forget has the server give up a resource by its intent.
func (c *Client) Forget(ctx context.Context, intent string) (out api.DoctorResource, err error) {
	err = c.post(ctx, "/api/server/doctor/forget", api.ForgetRequest{Intent: intent}, &out)
	return out, err
}

// GetProject returns a project.
func (c *Client) GetProject(ctx context.Context, project string) (out api.Project, err error) {
	err = c.post(ctx, "/api/projects/"+url.PathEscape(project)+"/get", nil, &out)
	return out, err
}

// ListProjects returns the projects of the user.
func (c *Client) ListProjects(ctx context.Context, req api.ListProjectsRequest) (out []api.Project, err error) {
	err = c.post(ctx, "/api/projects/list", req, &out)
	return out, err
}

// ListAuthProviders returns the providers to log in with.
func (c *Client) ListAuthProviders(ctx context.Context) (out []AuthProvider, err error) {
	err = c.post(ctx, "/api/auth/list_providers", nil, &out)
	return out, err
}

// Authorize begins to log in with a provider.
func (c *Client) Authorize(ctx context.Context, provider string, req AuthorizeRequest) (out AuthorizeResponse, err error) {
	err = c.post(ctx, "/api/auth/"+url.PathEscape(provider)+"/authorize", req, &out)
	return out, err
}

// AuthCallback ends logging in.
func (c *Client) AuthCallback(ctx context.Context, provider string, req AuthCallbackRequest) (out api.UserWithCreds, err error) {
	err = c.post(ctx, "/api/auth/"+url.PathEscape(provider)+"/callback", req, &out)
	return out, err
}

// GetRepo returns a repository, with the user's credentials if asked.
func (c *Client) GetRepo(ctx context.Context, project string, req api.GetRepoRequest) (out api.RepoHeadWithCreds, err error) {
	err = c.post(ctx, "/api/project/"+url.PathEscape(project)+"/repos/get", req, &out)
	return out, err
}

// InitRepo tells the server about a repository.
func (c *Client) InitRepo(ctx context.Context, project string, req api.InitRepoRequest) error {
	return c.post(ctx, "/api/project/"+url.PathEscape(project)+"/repos/init", req, nil)
}

// GetArchiveByHash returns the user's archive with that content.
func (c *Client) GetArchiveByHash(ctx context.Context, req api.GetArchiveRequest) (out api.FileArchive, err error) {
	err = c.post(ctx, "/api/files/get_archive_by_hash", req, &out)
	return out, err
}
