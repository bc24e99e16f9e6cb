package httpapi

import (
	"context"
	"encoding/hex"
	"net/http"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/access"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/view"
)

func (s *server) tokenRoutes() {
	register(s, "listTokens", http.MethodGet, "/v1/tokens", "All tokens that are not revoked, by id, without their secrets", s.listTokens)
	register(s, "createToken", http.MethodPost, "/v1/tokens", "Make a token of a secret that the caller keeps; the first one ends the admission of anonymous callers", s.createToken)
	register(s, "revokeToken", http.MethodDelete, "/v1/tokens/{id}", "Revoke a token", s.revokeToken)
	register(s, "listAudit", http.MethodGet, "/v1/audit", "Who changed what, or was refused", s.listAudit)
}

type tokensOutput struct{ Body api.Tokens }

func (s *server) listTokens(ctx context.Context, in *struct{ ReadParams }) (*tokensOutput, error) {
	st, err := s.read(ctx, in.ReadParams)
	if err != nil {
		return nil, err
	}
	out := api.Tokens{Index: st.Index(), Tokens: []api.Token{}}
	now := nowMS()
	for t := range st.Tokens() {
		out.Tokens = append(out.Tokens, view.Token(t, now))
	}
	return &tokensOutput{out}, nil
}

type createTokenInput struct {
	Mutation
	Body api.NewToken
}

func (s *server) createToken(ctx context.Context, in *createTokenInput) (*appliedBody, error) {
	b := in.Body
	if err := checkTokenID(b.ID); err != nil {
		return nil, err
	}
	hash, err := hex.DecodeString(b.Hash)
	if err != nil || len(hash) != fsm.TokenHashLen { // it is not repeated: it may be the secret
		return nil, invalid("hash has %d characters and needs %d of 0-9a-f: the SHA-256 of the secret, in hex", len(b.Hash), 2*fsm.TokenHashLen)
	}
	if err := checkNodes("node", b.Node); err != nil {
		return nil, err
	}
	p, err := parsePrefix("prefix", b.Prefix)
	if err != nil {
		return nil, err
	}
	return s.apply(ctx, in.Mutation, &fsm.CreateToken{Id: b.ID, Hash: hash, Role: b.Role, Node: b.Node, Prefix: p.Bytes(), ExpiresMs: b.ExpiresMS, First: b.First})
}

// checkTokenID does not repeat the id: who confuses the two gives a secret here.
func checkTokenID(id string) error {
	if err := access.CheckTokenID(id); err != nil {
		return invalid("id: %v", err)
	}
	return nil
}

type revokeTokenInput struct {
	Mutation
	ID string `path:"id"`
}

func (s *server) revokeToken(ctx context.Context, in *revokeTokenInput) (*appliedBody, error) {
	if err := checkTokenID(in.ID); err != nil {
		return nil, err
	}
	return s.apply(ctx, in.Mutation, &fsm.RevokeToken{Id: in.ID})
}

type auditInput struct {
	ReadParams
	From   uint64 `query:"from" doc:"Number of the record to begin with; the oldest if not given, with newest the newest"`
	Limit  int    `query:"limit" doc:"1000 if not given, at most 10000"`
	Prefix string `query:"prefix" doc:"Only records about exactly this prefix"`
	Move   string `query:"move" doc:"Only records about this move"`
	Newest bool   `query:"newest" doc:"Newest first"`
}

type auditOutput struct{ Body api.Audit }

func (s *server) listAudit(ctx context.Context, in *auditInput) (*auditOutput, error) {
	limit, err := pageLimit(in.Limit)
	if err != nil {
		return nil, err
	}
	f := view.AuditFilter{Move: in.Move, From: in.From, Newest: in.Newest}
	if given(ctx, "prefix") {
		p, err := parsePrefix("prefix", in.Prefix)
		if err != nil {
			return nil, err
		}
		f.Prefix = &p
	}
	st, err := s.read(ctx, in.ReadParams)
	if err != nil {
		return nil, err
	}
	return &auditOutput{view.Audit(st, f, limit)}, nil
}
