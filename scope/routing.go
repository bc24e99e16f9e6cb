package scope

import "slices"

// Verdict is the answer to "may this node write this key now?".
type Verdict uint8

// The verdicts. The zero value is Unknown: no scope matches the key, and the
// node decides for itself, by default in favour, as scopes are opt-in.
const (
	Unknown     Verdict = iota
	Owned               // the asking node is the owner
	Misdirected         // another node is the owner
	Quiesced            // the scope is moving, or on hold, and takes no writes from anyone
)

// String is the verdict in upper case, as it stands on the wire.
func (v Verdict) String() string {
	switch v {
	case Owned:
		return "OWNED"
	case Misdirected:
		return "MISDIRECTED"
	case Quiesced:
		return "QUIESCED"
	case Unknown:
	}
	return "UNKNOWN"
}

// Routing is the verdict for one key, as seen from one node.
type Routing struct {
	Verdict Verdict
	Scope   *Scope // the scope that matched; nil if Unknown
	target  NodeID
}

// IsLocalWriter reports whether the asking node may write the key.
func (r Routing) IsLocalWriter() bool { return r.Verdict == Owned }

// IsMisdirected reports whether another node owns the key.
func (r Routing) IsMisdirected() bool { return r.Verdict == Misdirected }

// Target is the node to turn to: the owner if Misdirected; if Quiesced the target
// of the move or, on hold, the owner; else "".
func (r Routing) Target() NodeID { return r.target }

// OnHold is the verdict while the cluster holds: nobody may write a scope that is
// not released. Whether it does is not in the scopes' records, as one change of
// the cluster's is about all of them.
func (r Routing) OnHold() Routing {
	if r.Scope == nil || r.Scope.Released {
		return r
	}
	return Routing{Quiesced, r.Scope, r.Scope.Owner}
}

// Route gives the verdict for key as seen from the node self. It takes no lock
// and does not allocate.
func (t Table) Route(key []byte, self NodeID) Routing {
	s, ok := t.Lookup(key)
	if !ok {
		return Routing{}
	}
	if s.Quiesced != "" {
		return Routing{Quiesced, s, s.Quiesced}
	}
	return route(s, s.Owner, self)
}

// touched is how many keys Touch looks up before it reads their records.
const touched = 32

// Touch reads what Route will read of many keys, and returns how many of them have a scope. A processor that waits for the
// memory of one look-up goes on to the next one meanwhile, which it cannot see where other work stands between them: then
// looking up twice, first all of them in a row, takes less time than once. Nor can it see past a look-up from one record to the next, so
// the records are read in a row of their own.
func (t Table) Touch(keys [][]byte) (found int) {
	var scopes [touched]*Scope
	for row := range slices.Chunk(keys, touched) {
		for i, k := range row {
			scopes[i], _ = t.Lookup(k)
		}
		for _, s := range scopes[:len(row)] {
			// Neither of what is compared is ever equal: no move goes to its source, and no id begins with a zero byte.
			if s != nil && s.Quiesced != s.Owner && (s.Owner == "" || s.Owner[0] != 0) {
				found++
			}
		}
	}
	return found
}

// RouteWithFallback gives the verdict when the caller, not the table, knows
// which nodes are down: the fallback, if there is one, counts as owner of a
// scope whose writer isDown. A registry server does not use it, as there the
// takeover is a change of owner in the log.
func (t Table) RouteWithFallback(key []byte, self NodeID, isDown func(NodeID) bool) Routing {
	s, ok := t.Lookup(key)
	if !ok {
		return Routing{}
	}
	if s.Quiesced != "" {
		return Routing{Quiesced, s, s.Quiesced}
	}
	owner := s.Writer
	if s.Fallback != "" && isDown(s.Writer) {
		owner = s.Fallback
	}
	return route(s, owner, self)
}

func route(s *Scope, owner, self NodeID) Routing {
	if owner == self {
		return Routing{Owned, s, ""}
	}
	return Routing{Misdirected, s, owner}
}
