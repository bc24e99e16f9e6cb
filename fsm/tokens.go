package fsm

import (
	"crypto/subtle"
	"fmt"
	"iter"
	"math"

	"github.com/scope-registry/scope-registry/internal/access"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/pb"
	"github.com/scope-registry/scope-registry/scope"
)

// MaxTokens bounds the tokens that are not revoked: each stands in every snapshot.
const MaxTokens = 4096

// Token is the record of a token. The hash of its secret is not in it, as records are shown.
type Token struct {
	ID        string
	Role      access.Role
	Node      scope.NodeID // of a node's token
	Prefix    scope.Prefix // the only one under which an operator's token changes scopes; "" is no restriction
	ExpiresMS int64        // milliseconds since 1970; 0 is never
	Created   uint64       // log index
	CreatedMS int64
	CreatedBy string
}

// Who is whoever shows the token.
func (t Token) Who() access.Who {
	return access.Who{Role: t.Role, ID: string(t.Node), Token: t.ID, Prefix: t.Prefix}
}

// expired reports whether the token has ended at a time of the wall clock.
func (t Token) expired(nowMS int64) bool { return t.ExpiresMS != 0 && nowMS >= t.ExpiresMS }

type tokenRecord struct {
	Token
	hash string // SHA-256 of the secret
}

// tokenTable holds the tokens that are not revoked.
type tokenTable struct {
	byID    scope.Index[*tokenRecord]
	first   uint64 // index at which the first one ever was made, 0 if none was
	changed uint64 // index of the last change
}

// AdmitsAnonymous reports whether somebody who shows nothing may do everything: until the first token is made.
// A server that demands client certificates does not admit such anyway.
func (s *State) AdmitsAnonymous() bool { return s.tokens.first == 0 }

// TokensChanged is the index of the last change of tokens: who was authenticated at an index not below it still is what
// he was, unless his token has expired since.
func (s *State) TokensChanged() uint64 { return s.tokens.changed }

// Tokens yields the tokens that are not revoked in the order of their ids, expired ones included.
func (s State) Tokens() iter.Seq[Token] {
	return func(yield func(Token) bool) {
		for _, t := range s.tokens.byID.All() {
			if !yield(t.Token) {
				return
			}
		}
	}
}

// Authenticate says whose token that is, by the wall clock of the caller, and when it expires (math.MaxInt64 if never).
// The error is UNAUTHENTICATED and the same whether the id, the secret or the time is wrong: it helps nobody to guess.
func (s State) Authenticate(t access.Token, nowMS int64) (who access.Who, expiresMS int64, err error) {
	known, ok := s.tokens.byID.Get(scope.Prefix(t.ID))
	want := make([]byte, TokenHashLen)
	if ok {
		copy(want, known.hash)
	}
	same := subtle.ConstantTimeCompare(want, t.Hash()) == 1
	if !ok || !same || known.expired(nowMS) {
		return access.Who{}, 0, &api.Error{Code: api.Unauthenticated,
			Detail: fmt.Sprintf("token %q is not known, not right, revoked or expired; ask an admin for another (token create)", t.ID)}
	}
	expiresMS = int64(math.MaxInt64)
	if known.ExpiresMS != 0 {
		expiresMS = known.ExpiresMS
	}
	return known.Who(), expiresMS, nil
}

// OriginOf is the origin of a command: who asked, the address without its port, and the reason that was given beside it.
func OriginOf(w access.Who, source, reason string) *Origin {
	return &Origin{Role: w.Role.String(), Id: w.ID, Token: w.Token, Source: source, Reason: reason}
}

// createToken makes a token. The first one ends the admission of anonymous callers, so that it has to be one that does
// not lock everybody out.
func (tx *txn) createToken(c *CreateToken, o *Origin) *api.Error {
	t, err := tx.readToken(c)
	if err != nil {
		return err
	}
	for old := range tx.Tokens() {
		if old.expired(tx.at.TimeMS) {
			tx.dropToken(old, "expire-token")
		}
	}
	switch known, ok := tx.tokens.byID.Get(scope.Prefix(t.ID)); {
	case c.GetFirst() && tx.tokens.first != 0:
		return refuse(api.Exists, "the first token was made at index %d already; make others with an admin's (token create)", tx.tokens.first)
	case ok && known.hash == string(c.GetHash()) && known.Role == t.Role && known.Node == t.Node && known.Prefix == t.Prefix && known.ExpiresMS == t.ExpiresMS:
		return nil // an earlier try of this one
	case ok:
		return refuse(api.Exists, "token %q was made at index %d already; choose another id, or revoke that one", t.ID, known.Created)
	case tx.tokens.byID.Len() >= MaxTokens:
		return refuse(api.Limit, "token %q would be one more than the limit of %d tokens; revoke some", t.ID, MaxTokens)
	case (c.GetFirst() || tx.tokens.first == 0 && !byAdminCertificate(o)) && (t.Role != access.Admin || t.ExpiresMS != 0):
		return refuse(api.Invalid, "the first token ends the admission of everybody unknown, so that it has to be an admin's and without an end; make it with: scope-registry cluster bootstrap-token")
	}
	tx.tokens.byID = tx.tokens.byID.With(scope.Prefix(t.ID), &tokenRecord{t, string(c.GetHash())})
	if tx.tokens.first == 0 {
		tx.tokens.first = tx.at.Index
	}
	tx.tokens.changed = tx.at.Index
	tx.emit(Event{Cause: "create-token", Token: &t})
	return nil
}

// byAdminCertificate reports whether the caller gets in without any token.
func byAdminCertificate(o *Origin) bool {
	return o.GetRole() == access.Admin.String() && o.GetToken() == ""
}

// readToken reads the command's own values.
func (tx *txn) readToken(c *CreateToken) (Token, *api.Error) {
	t := Token{ID: c.GetId(), Node: scope.NodeID(c.GetNode()), Prefix: scope.Prefix(c.GetPrefix()), ExpiresMS: c.GetExpiresMs(),
		Created: tx.at.Index, CreatedMS: tx.at.TimeMS, CreatedBy: cut(tx.actor, MaxActor)}
	var err error
	if t.Role, err = access.ParseRole(c.GetRole()); err != nil {
		return t, refuse(api.Invalid, "token %q: %v", t.ID, err)
	}
	if err := (&tokenRecord{t, string(c.GetHash())}).check(); err != nil {
		return t, err
	}
	if t.expired(tx.at.TimeMS) {
		return t, refuse(api.Invalid, "token %q: its end, %d ms since 1970, is not after the leader's clock, %d", t.ID, t.ExpiresMS, tx.at.TimeMS)
	}
	return t, nil
}

// check refuses what no token is.
func (t *tokenRecord) check() *api.Error {
	err := access.CheckTokenID(t.ID)
	if err == nil && t.Role == access.Node {
		err = t.Node.Check()
	}
	switch {
	case err != nil:
		return refuse(api.Invalid, "token %q: %v", t.ID, err)
	case t.Role == access.Server:
		return refuse(api.Invalid, "token %q: servers show certificates, not tokens", t.ID)
	case len(t.hash) != TokenHashLen:
		return refuse(api.Invalid, "token %q: a hash has %d bytes, given were %d", t.ID, TokenHashLen, len(t.hash))
	case t.Role != access.Node && t.Node != "":
		return refuse(api.Invalid, "token %q: node %q was given with role %s; only a token of role node is of one", t.ID, t.Node, t.Role)
	case t.Role != access.Operator && t.Prefix != "":
		return refuse(api.Invalid, "token %q: prefix %q was given with role %s; only an operator's token can be restricted to one", t.ID, t.Prefix, t.Role)
	case len(t.Prefix) > scope.MaxPrefixLen:
		return refuse(api.Invalid, "token %q: the prefix has %d bytes, the limit is %d", t.ID, len(t.Prefix), scope.MaxPrefixLen)
	case t.ExpiresMS < 0:
		return refuse(api.Invalid, "token %q: its end, %d ms since 1970, is before that", t.ID, t.ExpiresMS)
	}
	return nil
}

func (t *tokenRecord) record() *pb.Record {
	return &pb.Record{Kind: &pb.Record_Token{Token: &pb.TokenRecord{Id: t.ID, Hash: []byte(t.hash), Role: t.Role.String(), Node: string(t.Node),
		Prefix: []byte(t.Prefix), ExpiresMs: t.ExpiresMS, Created: t.Created, CreatedMs: t.CreatedMS, CreatedBy: t.CreatedBy}}}
}

// token takes the record of a token; Check looks at it.
func (l *Loader) token(r *pb.TokenRecord) error {
	role, err := access.ParseRole(r.GetRole())
	if err != nil {
		return fmt.Errorf("token %.40q: %w", r.GetId(), err)
	}
	t := &tokenRecord{Token{r.GetId(), role, scope.NodeID(r.GetNode()), scope.Prefix(r.GetPrefix()), r.GetExpiresMs(),
		r.GetCreated(), r.GetCreatedMs(), r.GetCreatedBy()}, string(r.GetHash())}
	if !l.tokens.Add(scope.Prefix(t.ID), t) {
		return fmt.Errorf("token %.40q does not come after those before it", t.ID)
	}
	return nil
}

func (s State) checkTokens() error {
	first, changed := s.tokens.first, s.tokens.changed
	if first > changed || changed > s.index || (first == 0) != (changed == 0) || s.tokens.byID.Len() > MaxTokens {
		return fmt.Errorf("%d tokens are held, the first was made at index %d, the last change is of %d, and the state is at %d", s.tokens.byID.Len(), first, changed, s.index)
	}
	for _, t := range s.tokens.byID.All() {
		if err := t.check(); err != nil {
			return err
		}
		if t.Created < first || t.Created > changed || len(t.CreatedBy) > MaxActor {
			return fmt.Errorf("token %q was made at index %d by %.40q, the first at %d, and the last change is of %d", t.ID, t.Created, t.CreatedBy, first, changed)
		}
	}
	return nil
}

// revokeToken ends a token. The last that can make others stays, unless whoever asks does not need one.
func (tx *txn) revokeToken(c *RevokeToken, o *Origin) *api.Error {
	t, ok := tx.tokens.byID.Get(scope.Prefix(c.GetId()))
	if !ok {
		return refuse(api.NotFound, "token %q is not known; list them with: scope-registry token list", c.GetId())
	}
	if t.lasting() && !byAdminCertificate(o) {
		others := 0
		for other := range tx.Tokens() {
			if other.lasting() && other.ID != t.ID {
				others++
			}
		}
		if others == 0 {
			return refuse(api.WrongPhase, "token %q is the last of an admin that does not expire; make another one first, or nobody could", t.ID)
		}
	}
	tx.dropToken(t.Token, "revoke-token")
	return nil
}

func (t Token) lasting() bool { return t.Role == access.Admin && t.ExpiresMS == 0 }

func (tx *txn) dropToken(t Token, cause string) {
	tx.tokens.byID = tx.tokens.byID.Without(scope.Prefix(t.ID))
	tx.tokens.changed = tx.at.Index
	tx.emit(Event{Cause: cause, Deleted: true, Token: &t})
}
