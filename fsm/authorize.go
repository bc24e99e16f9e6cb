package fsm

import (
	"fmt"

	"github.com/scope-registry/scope-registry/internal/access"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/migration"
	"github.com/scope-registry/scope-registry/scope"
)

// deed is what a command does, in the words of the table of access.
type deed struct {
	action access.Action
	fenced bool           // it says besides that an owner is off
	owners []scope.NodeID // the nodes of whose own it is
	// What it changes: scopes under these prefixes, and with wide something that no prefix holds.
	prefixes []scope.Prefix
	wide     bool
	// What the audit says of it beside.
	subject string // id of a node, session, server or token, or how much of them it is
	move    string
	reason  string // that the command itself gives
}

// authorize refuses a command whose caller may not ask for it. It is looked at here, and not only where the request came
// in, because here it is true: a token that was revoked before this entry does nothing in it, and whose session or move
// it is, is known. Front ends look before only to spare the log what is refused anyway.
//
// Whoever retries a command that was applied gets the answer to that, and is not asked here ◆: he may have lost his right
// since, by that very command for one, and the refusal would say that it was not applied. See [State.Apply].
func (tx *txn) authorize(o *Origin, c Command) (deed, *api.Error) {
	if o == nil {
		return deed{}, nil // the leader's own
	}
	d, unclear := tx.deedOf(c)
	who, err := tx.caller(o)
	if err == nil {
		err = unclear
	}
	if err == nil {
		err = permit(who, d)
	}
	return d, err
}

// permit refuses a deed that is beyond somebody's role, or beyond what is his own.
func permit(who access.Who, d deed) *api.Error {
	reach := who.Role.Reach(d.action)
	switch {
	case reach == access.Never:
		return refuse(api.Forbidden, "%s may not do this (%s); ask somebody whose role may, see SECURITY.md", who, d.action)
	case reach == access.Own && !owns(d.owners, who):
		return refuse(api.Forbidden, "%s may do this (%s) for itself only, and this is of %q", who, d.action, d.owners)
	case d.fenced && who.Role.Reach(access.SourceFenced) != access.Any:
		return refuse(api.Forbidden, "%s may not say that a node is off (source-fenced); that is an admin's word", who)
	}
	return within(who, d)
}

func owns(owners []scope.NodeID, who access.Who) bool {
	for _, n := range owners {
		if string(n) == who.ID && who.ID != "" {
			return true
		}
	}
	return false
}

// within refuses what lies beyond the prefix of an operator's token.
func within(who access.Who, d deed) *api.Error {
	if who.Prefix == "" {
		return nil
	}
	if d.wide {
		return refuse(api.Forbidden, "%s changes scopes under %q only, and this (%s) is more", who, who.Prefix, d.action)
	}
	for _, p := range d.prefixes {
		if !who.Prefix.Contains(p) {
			return refuse(api.Forbidden, "%s changes scopes under %q only, and this (%s) is about %q", who, who.Prefix, d.action, p)
		}
	}
	return nil
}

// caller is who the origin names, if he still is.
func (tx *txn) caller(o *Origin) (access.Who, *api.Error) {
	if o.GetRole() == access.Anonymous.String() {
		if !tx.AdmitsAnonymous() {
			return access.Who{}, refuse(api.Unauthenticated, "this cluster admits nobody unknown since index %d, when its first token was made; give a token", tx.tokens.first)
		}
		return access.Who{Role: access.Anonymous}, nil
	}
	if id := o.GetToken(); id != "" {
		t, ok := tx.tokens.byID.Get(scope.Prefix(id))
		if !ok || t.expired(tx.at.TimeMS) || t.Role.String() != o.GetRole() || string(t.Node) != o.GetId() {
			return access.Who{}, refuse(api.Unauthenticated, "token %q is revoked or expired; ask an admin for another (token create)", id)
		}
		return t.Who(), nil
	}
	role, err := access.ParseRole(o.GetRole())
	if err != nil {
		return access.Who{}, refuse(api.Unauthenticated, "%v; run the same release on all servers", err)
	}
	return access.Who{Role: role, ID: o.GetId()}, nil
}

// deedOf says what a command does. What only the leader says is nothing that anybody may ask for. The deed is what the audit
// tells also where an error says that it is not clear whose it is.
func (tx *txn) deedOf(c Command) (deed, *api.Error) {
	switch c := c.(type) {
	case *SetNode:
		return deed{action: access.SetNode, owners: of(c.GetId()), wide: true, subject: c.GetId()}, nil
	case *RemoveNode:
		return deed{action: access.RemoveNode, wide: true, fenced: c.GetSourceFenced() != "", subject: c.GetId()}, nil
	case *Declare:
		return deed{action: access.DeclareScope, prefixes: under(c.GetPrefix()), fenced: c.GetSourceFenced() != "", subject: c.GetWriter()}, nil
	case *Retire:
		return deed{action: access.RetireScope, prefixes: under(c.GetPrefix()), fenced: c.GetSourceFenced() != "", subject: c.GetSourceFenced()}, nil
	case *Batch:
		return deedOfBatch(c), nil
	case *Force:
		return deed{action: access.Force, prefixes: under(c.GetPrefix()), subject: c.GetTo(), move: c.GetId(), reason: c.GetReason()}, nil
	case *Release:
		return deed{action: access.ReleaseScope, prefixes: under(c.GetPrefix()), reason: c.GetReason()}, nil
	case *FenceNode:
		return deed{action: access.FenceNode, wide: true, subject: c.GetNode()}, nil
	case *OpenSession:
		return deed{action: access.OpenSession, owners: of(c.GetNode()), wide: true, subject: c.GetNode()}, nil
	case *CloseSession:
		return tx.deedOfSession(deed{action: access.CloseSession, subject: c.GetSession()}, c.GetSession())
	case *StageBackup:
		return deed{action: access.Restore, wide: true, subject: c.GetId()}, nil
	case *Restore:
		return deed{action: access.Restore, wide: true, subject: c.GetId()}, nil
	case *DropBackup:
		return deed{action: access.Restore, wide: true, subject: c.GetId()}, nil
	case *JoinServer:
		return deed{action: access.JoinServer, wide: true, subject: c.GetId()}, nil
	case *RemoveServer:
		return deed{action: access.RemoveServer, wide: true, subject: c.GetId()}, nil
	case *CreateToken:
		return deed{action: access.CreateToken, wide: true, subject: c.GetId()}, nil
	case *RevokeToken:
		return deed{action: access.RevokeToken, wide: true, subject: c.GetId()}, nil
	}
	return tx.deedOfMove(c)
}

func under(prefix []byte) []scope.Prefix { return []scope.Prefix{scope.Prefix(prefix)} }

func of(id string) []scope.NodeID { return []scope.NodeID{scope.NodeID(id)} }

func deedOfBatch(c *Batch) deed {
	d := deed{action: access.Apply, wide: c.GetPrune() || len(c.GetNodes()) > 0,
		subject: fmt.Sprintf("%d nodes, %d scopes", len(c.GetNodes()), len(c.GetScopes()))}
	if c.GetPrune() {
		d.subject += ", pruned"
	}
	for _, s := range c.GetScopes() {
		d.prefixes = append(d.prefixes, scope.Prefix(s.GetPrefix()))
		d.fenced = d.fenced || s.GetSourceFenced() != ""
	}
	return d
}

// deedOfMove is of the commands about moves. A word with a session is a node's, whoever brings it: sessions are shown to
// everybody, and so their ids prove nothing.
func (tx *txn) deedOfMove(c Command) (deed, *api.Error) {
	switch c := c.(type) {
	case *StartMove:
		return deed{action: access.StartMove, prefixes: under(c.GetPrefix()), subject: c.GetTo(), move: c.GetId(), reason: c.GetReason()}, nil
	case *Quiesce:
		d, _ := tx.deedIn(access.QuiesceMove, c.GetMove())
		return d, nil
	case *Shipped:
		d, m := tx.deedIn(access.ShippedMove, c.GetMove())
		return tx.word(d, c.GetSession(), m.From)
	case *Ready:
		d, m := tx.deedIn(access.ReadyMove, c.GetMove())
		return tx.word(d, c.GetSession(), m.To)
	case *Abort:
		d, m := tx.deedIn(access.AbortMove, c.GetMove())
		d.reason = c.GetReason()
		return tx.word(d, c.GetSession(), m.From, m.To)
	case *Cleaned:
		d := deed{action: access.CleanedMove, prefixes: under(c.GetPrefix()), subject: c.GetNode(), move: c.GetMove(), reason: c.GetReason()}
		return tx.word(d, c.GetSession(), scope.NodeID(c.GetNode()))
	}
	name := c.ProtoReflect().Descriptor().Name()
	return deed{action: access.Action(name)}, refuse(api.Forbidden, "%s is the leader's own command; nobody may ask for it", name)
}

// deedIn is about a move, and returns that too. Where it is not known the command is refused anyway.
func (tx *txn) deedIn(a access.Action, id string) (deed, migration.Move) {
	m, ok := tx.moves.Get(id)
	if !ok {
		return deed{action: a, move: id}, m
	}
	return deed{action: a, move: id, prefixes: []scope.Prefix{m.Prefix}}, m
}

// word is a node's with a session; without one it is the operator's, or that of one of the nodes.
func (tx *txn) word(d deed, session string, nodes ...scope.NodeID) (deed, *api.Error) {
	if session == "" {
		d.owners = nodes
		return d, nil
	}
	d.action, d.subject = access.GiveWord, session
	return tx.deedOfSession(d, session)
}

// deedOfSession is the deed of the node that holds a session, which is more than a matter of scopes.
func (tx *txn) deedOfSession(d deed, session string) (deed, *api.Error) {
	d.wide = true
	n, err := tx.live(session)
	if err == nil {
		d.owners = of(string(n.ID))
	}
	return d, err
}
