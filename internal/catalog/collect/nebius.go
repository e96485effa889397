package collect

// nebius tells prices over an API that this program does not speak yet, so that they come from
// published catalogs only.
func nebius() Source {
	return Source{Provider: "nebius", OnlyPublished: true}
}
