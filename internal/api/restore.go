package api

// RestoreOptions say how a backup is put back.
type RestoreOptions struct {
	// Incarnation is the number of the new incarnation, above any that the cluster
	// was ever in.
	Incarnation uint64
	// Tag is random, and new for each restore: the same restore is tried again with
	// the same one. "" lets the server draw it.
	Tag string
	// AllNodesKnown is the admin's word that no other node was declared since the
	// backup. Only then, or after a release, does the hold end by itself.
	AllNodesKnown bool
	// FromCluster is the id of the cluster that the backup is of; needed where that
	// is not the one that it is restored into.
	FromCluster string
	// SHA256 of the whole backup, in hex; "" is not compared.
	SHA256 string
}

// Restored is the answer to a restore.
type Restored struct {
	Index       uint64 `json:"index"`
	Cluster     string `json:"cluster"`
	Incarnation uint64 `json:"incarnation"`
	Tag         string `json:"incarnation_tag"`
	BackupIndex uint64 `json:"backup_index"`
	Scopes      int    `json:"scopes"`
	Nodes       int    `json:"nodes"`
	Hold        string `json:"hold,omitempty"` // what the hold waits for; absent if nothing holds
}

// Release is the body of POST /v1/release.
type Release struct {
	Prefix string `json:"prefix"`
	// SourceFenced is the admin's word that every node which has not met the
	// incarnation is off.
	SourceFenced bool   `json:"source_fenced"`
	Reason       string `json:"reason"`
	Incarnation  uint64 `json:"incarnation,omitempty"` // that the word is about; 0 is not compared
}
