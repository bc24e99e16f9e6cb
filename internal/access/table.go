package access

import (
	"fmt"

	"github.com/scope-registry/scope-registry/internal/api"
)

// Action is something that can be asked for. Those of the HTTP API have the names of its operations.
type Action string

// Reach is how far a role may do something.
type Reach uint8

// The reaches.
const (
	Never Reach = iota
	Own         // for itself only: a node its session, its side of a move, its record
	Any
)

// String is the reach as the table in SECURITY.md shows it.
func (r Reach) String() string { return [...]string{"–", "own", "yes"}[r] }

// Row is one row of the table. Admins may do all of it, and so may anonymous callers where they are admitted.
type Row struct {
	Action Action
	Does   string
	// Open is true where nobody has to be known.
	Open                   bool
	Viewer, Node, Operator Reach
}

// The actions that the code names.
const (
	Route          Action = "route"
	Explain        Action = "explain"
	ListScopes     Action = "listScopes"
	GetScope       Action = "getScope"
	ListNodes      Action = "listNodes"
	GetNode        Action = "getNode"
	ListSessions   Action = "listSessions"
	ListMoves      Action = "listMoves"
	GetMove        Action = "getMove"
	Watch          Action = "watch"
	ClusterStatus  Action = "clusterStatus"
	Metrics        Action = "metrics"
	ListAudit      Action = "listAudit"
	OpenSession    Action = "openSession"
	RenewSession   Action = "renewSession"
	CloseSession   Action = "closeSession"
	ReportMove     Action = "reportMove"
	GiveWord       Action = "giveWord"
	SetNode        Action = "setNode"
	RemoveNode     Action = "removeNode"
	DeclareScope   Action = "declareScope"
	RetireScope    Action = "retireScope"
	Apply          Action = "apply"
	StartMove      Action = "startMove"
	QuiesceMove    Action = "quiesceMove"
	ShippedMove    Action = "shippedMove"
	ReadyMove      Action = "readyMove"
	AbortMove      Action = "abortMove"
	CleanedMove    Action = "cleanedMove"
	TransferLeader Action = "transferLeader"
	Backup         Action = "backup"
	Force          Action = "force"
	ReleaseScope   Action = "releaseScope"
	FenceNode      Action = "fenceNode"
	SourceFenced   Action = "sourceFenced"
	JoinServer     Action = "joinServer"
	RemoveServer   Action = "removeServer"
	Restore        Action = "restore"
	ListTokens     Action = "listTokens"
	CreateToken    Action = "createToken"
	RevokeToken    Action = "revokeToken"
	Healthz        Action = "healthz"
	Readyz         Action = "readyz"
	OpenAPI        Action = "openapi"
	Connect        Action = "connect"
)

// Rows returns the table, in the order of SECURITY.md.
func Rows() []Row {
	return []Row{
		{Action: Healthz, Does: "whether the process answers", Open: true},
		{Action: Readyz, Does: "whether the server can serve", Open: true},
		{Action: OpenAPI, Does: "the description of the API", Open: true},
		{Action: Connect, Does: "commands of a connection: HELLO, AUTH, PING, QUIT, RESET, SELECT and the like", Open: true},
		{Action: Route, Does: "ask for the verdict for a key", Viewer: Any, Node: Any, Operator: Any},
		{Action: Explain, Does: "ask why a key routes as it does", Viewer: Any, Node: Any, Operator: Any},
		{Action: ListScopes, Does: "list scopes", Viewer: Any, Node: Any, Operator: Any},
		{Action: GetScope, Does: "show a scope", Viewer: Any, Node: Any, Operator: Any},
		{Action: ListNodes, Does: "list nodes", Viewer: Any, Node: Any, Operator: Any},
		{Action: GetNode, Does: "show a node", Viewer: Any, Node: Any, Operator: Any},
		{Action: ListSessions, Does: "list sessions", Viewer: Any, Node: Any, Operator: Any},
		{Action: ListMoves, Does: "list moves", Viewer: Any, Node: Any, Operator: Any},
		{Action: GetMove, Does: "show a move, wait for its end", Viewer: Any, Node: Any, Operator: Any},
		{Action: Watch, Does: "follow all changes", Viewer: Any, Node: Any, Operator: Any},
		{Action: ClusterStatus, Does: "show the servers", Viewer: Any, Node: Any, Operator: Any},
		{Action: Metrics, Does: "read metrics, and what a server says of itself", Viewer: Any, Node: Any, Operator: Any},
		{Action: ListAudit, Does: "see who changed what", Operator: Any},
		{Action: OpenSession, Does: "open a node's session", Node: Own},
		{Action: RenewSession, Does: "renew a node's session", Node: Own},
		{Action: CloseSession, Does: "close a node's session", Node: Own},
		{Action: ReportMove, Does: "report the progress of a move, as its source", Node: Own},
		{Action: GiveWord, Does: "shipped, ready, aborted, cleaned with a node's session", Node: Own},
		{Action: SetNode, Does: "declare a node, or change its address", Node: Own, Operator: Any},
		{Action: RemoveNode, Does: "remove a node", Operator: Any},
		{Action: DeclareScope, Does: "declare a scope, or change its options", Operator: Any},
		{Action: RetireScope, Does: "retire a scope", Operator: Any},
		{Action: Apply, Does: "many nodes and scopes at once", Operator: Any},
		{Action: StartMove, Does: "start a move", Operator: Any},
		{Action: QuiesceMove, Does: "end a move's pre-copy", Operator: Any},
		{Action: ShippedMove, Does: "say that a move's records are shipped", Node: Own, Operator: Any},
		{Action: ReadyMove, Does: "say that a move's target holds them", Node: Own, Operator: Any},
		{Action: AbortMove, Does: "abort a move", Node: Own, Operator: Any},
		{Action: CleanedMove, Does: "say that an old copy is gone", Node: Own, Operator: Any},
		{Action: TransferLeader, Does: "make another server the leader", Operator: Any},
		{Action: Backup, Does: "take a backup", Operator: Any},
		{Action: Force, Does: "give a scope away without its owner"},
		{Action: ReleaseScope, Does: "serve a scope although the cluster holds"},
		{Action: FenceNode, Does: "say that a node is off, so that its next session may be of other data"},
		{Action: SourceFenced, Does: "say with another change that an owner is off"},
		{Action: JoinServer, Does: "bring in a server"},
		{Action: RemoveServer, Does: "remove a server"},
		{Action: Restore, Does: "restore a backup"},
		{Action: ListTokens, Does: "list tokens"},
		{Action: CreateToken, Does: "make a token"},
		{Action: RevokeToken, Does: "revoke a token"},
	}
}

var byAction = func() map[Action]Row {
	out := map[Action]Row{}
	for _, r := range Rows() {
		out[r.Action] = r
	}
	return out
}()

// Known reports whether the table has the action.
func Known(a Action) bool { _, ok := byAction[a]; return ok }

// Reach is how far a role may do something: Never for an action that the table does not have.
func (r Role) Reach(a Action) Reach {
	row, ok := byAction[a]
	switch {
	case !ok:
		return Never
	case row.Open, r == Admin, r == Anonymous:
		return Any
	case r == Viewer:
		return row.Viewer
	case r == Node:
		return row.Node
	case r == Operator:
		return row.Operator
	}
	return Never
}

// May is nil if who asks may do it, at least for itself. What is its own, and what lies under the prefix of its token,
// is for the state machine to tell. The error is FORBIDDEN, or UNAUTHENTICATED for nobody.
func (w Who) May(a Action) error {
	switch {
	case w.Role.Reach(a) != Never:
		return nil
	case w.Role == Nobody:
		return Unknown()
	}
	return &api.Error{Code: api.Forbidden, Detail: fmt.Sprintf("%s may not %s (%s); ask somebody whose role may, see SECURITY.md", w, row(a), a)}
}

func row(a Action) string {
	if r, ok := byAction[a]; ok {
		return r.Does
	}
	return "do that"
}

// Unknown is the refusal of somebody who showed nothing.
func Unknown() error {
	return &api.Error{Code: api.Unauthenticated, Detail: "this cluster admits nobody unknown; give a token (--token-file, Authorization: Bearer, AUTH) or a client certificate"}
}
