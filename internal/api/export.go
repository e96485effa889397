package api

// Export is what a project shares with others.
type Export struct {
	ID               string         `json:"id"`
	Name             string         `json:"name"`
	IsGlobal         bool           `json:"is_global"` // shared with all projects
	Imports          []ExportImport `json:"imports"`
	ExportedFleets   []Named        `json:"exported_fleets"`
	ExportedGateways []Named        `json:"exported_gateways"`
}

// ExportImport is a project that uses an export.
type ExportImport struct {
	ProjectName string `json:"project_name"`
}

// Named is an object by id and name.
type Named struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

// Import is what another project shares with this one.
type Import struct {
	ID     string         `json:"id"`
	Export ImportedExport `json:"export"`
}

// ImportedExport is an export as its importers see it.
type ImportedExport struct {
	ID               string  `json:"id"`
	Name             string  `json:"name"`
	ProjectName      string  `json:"project_name"`
	ExportedFleets   []Named `json:"exported_fleets"`
	ExportedGateways []Named `json:"exported_gateways"`
}

// CreateExportRequest shares fleets and gateways.
type CreateExportRequest struct {
	Name             string   `json:"name" cfg:"req"`
	IsGlobal         bool     `json:"is_global"`
	ImporterProjects []string `json:"importer_projects" cfg:"maxlen=1000"`
	ExportedFleets   []string `json:"exported_fleets" cfg:"maxlen=1000"`
	ExportedGateways []string `json:"exported_gateways" cfg:"maxlen=1000"`
}

// UpdateExportRequest changes what is shared, and with whom.
type UpdateExportRequest struct {
	Name                   string   `json:"name" cfg:"req"`
	SetGlobal              bool     `json:"set_global"`
	UnsetGlobal            bool     `json:"unset_global"`
	AddImporterProjects    []string `json:"add_importer_projects" cfg:"maxlen=1000"`
	RemoveImporterProjects []string `json:"remove_importer_projects" cfg:"maxlen=1000"`
	AddExportedFleets      []string `json:"add_exported_fleets" cfg:"maxlen=1000"`
	RemoveExportedFleets   []string `json:"remove_exported_fleets" cfg:"maxlen=1000"`
	AddExportedGateways    []string `json:"add_exported_gateways" cfg:"maxlen=1000"`
	RemoveExportedGateways []string `json:"remove_exported_gateways" cfg:"maxlen=1000"`
}

// DeleteImportRequest names an import.
type DeleteImportRequest struct {
	ExportName        string `json:"export_name" cfg:"req"`
	ExportProjectName string `json:"export_project_name" cfg:"req"`
}
