package api

import "encoding/json"

// User is a person or a program with a token.
type User struct {
	ID           string          `json:"id"`
	Username     string          `json:"username"`
	CreatedAt    *Time           `json:"created_at"`
	GlobalRole   GlobalRole      `json:"global_role"`
	Email        *string         `json:"email"`
	Active       bool            `json:"active"`
	Permissions  UserPermissions `json:"permissions"`
	SSHPublicKey *string         `json:"ssh_public_key"`
}

// UserPermissions are derived from the server's defaults.
type UserPermissions struct {
	CanCreateProjects bool `json:"can_create_projects"`
}

// UserWithCreds is a user with what only they may see.
type UserWithCreds struct {
	User
	Creds         UserCreds `json:"creds"`
	SSHPrivateKey *string   `json:"ssh_private_key"`
}

// UserCreds holds the token.
type UserCreds struct {
	Token string `json:"token"`
}

// UsernameRequest names a user.
type UsernameRequest struct {
	Username string `json:"username" cfg:"req"`
}

// CreateUserRequest creates or updates a user.
type CreateUserRequest struct {
	Username   string     `json:"username" cfg:"req"`
	GlobalRole GlobalRole `json:"global_role" cfg:"req,enum=admin|user"`
	Email      *string    `json:"email"`
	Active     *bool      `json:"active"`
}

// DeleteUsersRequest deletes users by name.
type DeleteUsersRequest struct {
	Users []string `json:"users" cfg:"req"`
}

// ListUsersRequest pages through users; all fields are optional.
type ListUsersRequest struct {
	ReturnTotalCount *bool   `json:"return_total_count"`
	NamePattern      *string `json:"name_pattern"`
	PrevCreatedAt    *Time   `json:"prev_created_at"`
	PrevID           *string `json:"prev_id" cfg:"uuid"`
	Limit            *int    `json:"limit" cfg:"min=0,max=2000"`
	Ascending        bool    `json:"ascending"`
}

// Optional says that the request may be sent without a body.
func (*ListUsersRequest) Optional() {}

// UsersInfoList is a page of users with the total.
type UsersInfoList struct {
	TotalCount int    `json:"total_count"`
	Users      []User `json:"users"`
}

// PublicKeyInfo is an SSH key that a user added.
type PublicKeyInfo struct {
	ID          string `json:"id"`
	AddedAt     Time   `json:"added_at"`
	Name        string `json:"name"`
	Type        string `json:"type"`
	Fingerprint string `json:"fingerprint"`
}

// AddPublicKeyRequest adds an SSH key.
type AddPublicKeyRequest struct {
	Key  string  `json:"key" cfg:"req"`
	Name *string `json:"name"`
}

// DeletePublicKeysRequest removes SSH keys.
type DeletePublicKeysRequest struct {
	IDs []string `json:"ids" cfg:"req,uuid"`
}

// Project is a project with its members.
type Project struct {
	ProjectID     string        `json:"project_id"`
	ProjectName   string        `json:"project_name"`
	Owner         User          `json:"owner"`
	CreatedAt     *Time         `json:"created_at"`
	Backends      []BackendInfo `json:"backends"`
	Members       []Member      `json:"members"`
	IsPublic      bool          `json:"is_public"`
	TemplatesRepo *string       `json:"templates_repo"`
}

// BackendInfo is a configured backend without credentials.
type BackendInfo struct {
	Name   BackendType     `json:"name"`
	Config json.RawMessage `json:"config"`
}

// Member is a user of a project.
type Member struct {
	User        User              `json:"user"`
	ProjectRole ProjectRole       `json:"project_role"`
	Permissions MemberPermissions `json:"permissions"`
}

// MemberPermissions are derived from the role and the server's defaults.
type MemberPermissions struct {
	CanManageSSHFleets bool `json:"can_manage_ssh_fleets"`
	CanManageSecrets   bool `json:"can_manage_secrets"`
}

// ProjectsInfoList is a page of projects with the total.
type ProjectsInfoList struct {
	TotalCount int       `json:"total_count"`
	Projects   []Project `json:"projects"`
}

// ListProjectsRequest pages through projects; all fields are optional.
type ListProjectsRequest struct {
	IncludeNotJoined *bool `json:"include_not_joined"`
	// Username asks for the projects of one member.
	Username         *string `json:"username"`
	ReturnTotalCount *bool   `json:"return_total_count"`
	NamePattern      *string `json:"name_pattern"`
	PrevCreatedAt    *Time   `json:"prev_created_at"`
	PrevID           *string `json:"prev_id" cfg:"uuid"`
	Limit            *int    `json:"limit" cfg:"min=0,max=2000"`
	Ascending        bool    `json:"ascending"`
}

// Optional says that the request may be sent without a body.
func (*ListProjectsRequest) Optional() {}

// CreateProjectRequest creates a project.
type CreateProjectRequest struct {
	ProjectName   string  `json:"project_name" cfg:"req"`
	IsPublic      bool    `json:"is_public"`
	TemplatesRepo *string `json:"templates_repo"`
}

// UpdateProjectRequest changes what is not null.
type UpdateProjectRequest struct {
	IsPublic           *bool   `json:"is_public"`
	TemplatesRepo      *string `json:"templates_repo"`
	ResetTemplatesRepo bool    `json:"reset_templates_repo"`
}

// DeleteProjectsRequest deletes projects by name.
type DeleteProjectsRequest struct {
	ProjectsNames []string `json:"projects_names" cfg:"req"`
}

// MemberSetting is a user's role; Username may be an e-mail address.
type MemberSetting struct {
	Username    string      `json:"username" cfg:"req"`
	ProjectRole ProjectRole `json:"project_role" cfg:"req,enum=admin|manager|user"`
}

// MembersRequest sets or adds members.
type MembersRequest struct {
	Members []MemberSetting `json:"members" cfg:"req"`
}

// RemoveMembersRequest removes members by name.
type RemoveMembersRequest struct {
	Usernames []string `json:"usernames" cfg:"req"`
}

// ServerInfo is the server's version.
type ServerInfo struct {
	ServerVersion *string `json:"server_version"`
}

// Secret is a named value; lists leave the value out.
type Secret struct {
	ID    string  `json:"id"`
	Name  string  `json:"name"`
	Value *string `json:"value"`
}

// GetSecretRequest names a secret.
type GetSecretRequest struct {
	Name string `json:"name" cfg:"req"`
}

// SetSecretRequest creates or replaces a secret.
type SetSecretRequest struct {
	Name  string `json:"name" cfg:"req"`
	Value string `json:"value" cfg:"req"`
}

// DeleteSecretsRequest deletes secrets by name.
type DeleteSecretsRequest struct {
	SecretsNames []string `json:"secrets_names" cfg:"req"`
}
