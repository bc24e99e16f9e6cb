package fsm

import (
	"github.com/scope-registry/scope-registry/internal/access"
	"github.com/scope-registry/scope-registry/internal/api"
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
}

// authorize refuses a command whose caller may not ask for it. It is looked at here, and not only where the request came
// in, because here it is true: a token that was revoked before this entry does nothing in it, and whose session or move
// it is, is known. Front ends look before only to spare the log what is refused anyway.
func (tx *txn) authorize(o *Origin, c Command) *api.Error {
	if o == nil {
		return nil // the leader's own
	}
	who, err := tx.caller(o)
	if err != nil {
		return err
	}
	d, err := tx.deedOf(c)
	if err != nil {
		return err
	}
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

// deedOf says what a command does. What only the leader says is nothing that anybody may ask for.
func (tx *txn) deedOf(c Command) (deed, *api.Error) {
	switch c := c.(type) {
	case *SetNode:
		return deed{action: access.SetNode, owners: []scope.NodeID{scope.NodeID(c.GetId())}, wide: true}, nil
	case *RemoveNode:
		return deed{action: access.RemoveNode, wide: true, fenced: c.GetSourceFenced() != ""}, nil
	case *Declare:
		return deed{action: access.DeclareScope, prefixes: under(c.GetPrefix()), fenced: c.GetSourceFenced() != ""}, nil
	case *Retire:
		return deed{action: access.RetireScope, prefixes: under(c.GetPrefix()), fenced: c.GetSourceFenced() != ""}, nil
	case *Batch:
		return deedOfBatch(c), nil
	case *Force:
		return deed{action: access.Force, prefixes: under(c.GetPrefix())}, nil
	case *Release:
		return deed{action: access.ReleaseScope, prefixes: under(c.GetPrefix())}, nil
	case *FenceNode:
		return deed{action: access.FenceNode, wide: true}, nil
	case *OpenSession:
		return deed{action: access.OpenSession, owners: []scope.NodeID{scope.NodeID(c.GetNode())}, wide: true}, nil
	case *CloseSession:
		return tx.deedOfSession(access.CloseSession, c.GetSession())
	case *StageBackup, *Restore, *DropBackup:
		return deed{action: access.Restore, wide: true}, nil
	case *JoinServer:
		return deed{action: access.JoinServer, wide: true}, nil
	case *RemoveServer:
		return deed{action: access.RemoveServer, wide: true}, nil
	case *CreateToken:
		return deed{action: access.CreateToken, wide: true}, nil
	case *RevokeToken:
		return deed{action: access.RevokeToken, wide: true}, nil
	}
	return tx.deedOfMove(c)
}

func under(prefix []byte) []scope.Prefix { return []scope.Prefix{scope.Prefix(prefix)} }

func deedOfBatch(c *Batch) deed {
	d := deed{action: access.Apply, wide: c.GetPrune() || len(c.GetNodes()) > 0}
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
		return deed{action: access.StartMove, prefixes: under(c.GetPrefix())}, nil
	case *Quiesce:
		return tx.deedIn(c.GetMove(), deed{action: access.QuiesceMove}), nil
	case *Shipped:
		if c.GetSession() != "" {
			return tx.deedOfSession(access.GiveWord, c.GetSession())
		}
		m, _ := tx.moves.Get(c.GetMove())
		return tx.deedIn(c.GetMove(), deed{action: access.ShippedMove, owners: []scope.NodeID{m.From}}), nil
	case *Ready:
		if c.GetSession() != "" {
			return tx.deedOfSession(access.GiveWord, c.GetSession())
		}
		m, _ := tx.moves.Get(c.GetMove())
		return tx.deedIn(c.GetMove(), deed{action: access.ReadyMove, owners: []scope.NodeID{m.To}}), nil
	case *Abort:
		if c.GetSession() != "" {
			return tx.deedOfSession(access.GiveWord, c.GetSession())
		}
		m, _ := tx.moves.Get(c.GetMove())
		return tx.deedIn(c.GetMove(), deed{action: access.AbortMove, owners: []scope.NodeID{m.From, m.To}}), nil
	case *Cleaned:
		if c.GetSession() != "" {
			return tx.deedOfSession(access.GiveWord, c.GetSession())
		}
		return deed{action: access.CleanedMove, owners: []scope.NodeID{scope.NodeID(c.GetNode())}, prefixes: under(c.GetPrefix())}, nil
	}
	return deed{}, refuse(api.Forbidden, "%T is the leader's own command; nobody may ask for it", c)
}

// deedIn adds what a move is about. Where it is not known the command is refused anyway.
func (tx *txn) deedIn(move string, d deed) deed {
	if m, ok := tx.moves.Get(move); ok {
		d.prefixes = []scope.Prefix{m.Prefix}
	}
	return d
}

func (tx *txn) deedOfSession(a access.Action, session string) (deed, *api.Error) {
	n, err := tx.live(session)
	if err != nil {
		return deed{}, err
	}
	return deed{action: a, owners: []scope.NodeID{n.ID}, wide: true}, nil
}
