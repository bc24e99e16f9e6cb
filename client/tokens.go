package client

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/url"

	"github.com/scope-registry/scope-registry/internal/access"
	"github.com/scope-registry/scope-registry/internal/api"
)

type (
	// NewToken says what a token is for: Role ("viewer", "node", "operator" or "admin"), Node (the one that a token of role
	// node speaks for), Prefix (text form: the only one under which an operator's changes scopes), ExpiresMS (milliseconds
	// since 1970; 0 is never), First (refuse unless no token was ever made), and ID, drawn if it is empty. Hash is not the
	// caller's to fill in.
	NewToken = api.NewToken
	// Tokens are all tokens that are not revoked, by id.
	Tokens = api.Tokens
)

// idLen is the length of an id that is drawn, in random bytes: enough that it is nobody else's.
const idLen = 5

// Tokens lists the tokens that are not revoked. Nobody can show their secrets again.
func (c *Client) Tokens(ctx context.Context) (Tokens, error) {
	return get[Tokens](ctx, c, "/v1/tokens", nil)
}

// DrawToken draws the secret of a token, and its id if that is empty, and fills in the hash. The text is the token, as it is
// shown to servers: whoever has it is what the token is for. Only its hash leaves this process with [Client.CreateToken],
// so that the text can be put in a safe place before there is anything to lose.
func DrawToken(t NewToken) (_ NewToken, text string, err error) {
	var secret [access.SecretLen]byte
	if _, err := rand.Read(secret[:]); err != nil {
		return t, "", &api.Error{Code: api.Internal, Detail: fmt.Sprintf("no random bytes for a token: %v", err)}
	}
	if t.ID == "" {
		var id [idLen]byte
		if _, err := rand.Read(id[:]); err != nil {
			return t, "", &api.Error{Code: api.Internal, Detail: fmt.Sprintf("no random bytes for a token: %v", err)}
		}
		t.ID = hex.EncodeToString(id[:])
	}
	drawn, err := access.NewToken(t.ID, secret)
	if err != nil {
		return t, "", &api.Error{Code: api.Invalid, Detail: err.Error()}
	}
	t.Hash = hex.EncodeToString(drawn.Hash())
	return t, drawn.Text(), nil
}

// CreateToken makes a token that was drawn. EXISTS: the id is taken, or, with First, there was a token before. After
// OUTCOME_UNKNOWN the same again is safe, as it is the same token.
func (c *Client) CreateToken(ctx context.Context, t NewToken) (api.Applied, error) {
	return post[api.Applied](ctx, c, "/v1/tokens", t)
}

// RevokeToken ends a token. What its holder is doing ends with it, watches and backups too.
func (c *Client) RevokeToken(ctx context.Context, id string) (api.Applied, error) {
	var out api.Applied
	err := c.do(ctx, call{method: http.MethodDelete, path: "/v1/tokens/" + url.PathEscape(id), out: &out, mutates: true})
	return out, err
}
