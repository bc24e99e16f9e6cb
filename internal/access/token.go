package access

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"regexp"
	"strings"
)

const (
	// tokenMark begins every token, so that scanners for leaked secrets find them.
	tokenMark = "srt_"
	// SecretLen is the length of a token's secret in bytes.
	SecretLen = 32
	// MaxTokenID bounds a token's id in bytes: it stands in the record of every change made with it.
	MaxTokenID = 32
	// MaxTokenText bounds a token as text, in bytes.
	MaxTokenText = len(tokenMark) + MaxTokenID + 1 + 2*SecretLen
)

// Token is what somebody shows. Its text form is srt_ID_SECRET, the secret in hex. Printing one does not
// show the secret, which belongs into no log and no error.
type Token struct {
	ID     string
	secret [SecretLen]byte
}

// NewToken makes a token of an id and a random secret.
func NewToken(id string, secret [SecretLen]byte) (Token, error) {
	if !tokenID(id) {
		return Token{}, errTokenID
	}
	return Token{id, secret}, nil
}

var (
	errTokenID = errors.New("the id of a token is 1 to 32 of a-z, 0-9 and -; choose another")
	errToken   = errors.New("that is no token; one looks like srt_ID_SECRET and is printed once, when it is made")
)

// CheckTokenID refuses what cannot be the id of a token.
func CheckTokenID(id string) error {
	if !tokenID(id) {
		return errTokenID
	}
	return nil
}

func tokenID(id string) bool {
	return id != "" && len(id) <= MaxTokenID && strings.Trim(id, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

// ParseToken reads the text form. The error never repeats any of it.
func ParseToken(text string) (Token, error) {
	rest, marked := strings.CutPrefix(text, tokenMark)
	id, secret, ok := strings.Cut(rest, "_")
	if !marked || !ok || !tokenID(id) || len(secret) != 2*SecretLen {
		return Token{}, errToken
	}
	t := Token{ID: id}
	if _, err := hex.Decode(t.secret[:], []byte(secret)); err != nil {
		return Token{}, errToken
	}
	return t, nil
}

// Text is the text form, which [ParseToken] reverses.
func (t Token) Text() string { return tokenMark + t.ID + "_" + hex.EncodeToString(t.secret[:]) }

// Hash is the SHA-256 of the secret, which is all that is stored of it. 256 random bits need no slow hash.
func (t Token) Hash() []byte {
	sum := sha256.Sum256(t.secret[:])
	return sum[:]
}

// String hides the secret from whoever prints the token by mistake.
func (t Token) String() string { return tokenMark + t.ID + "_…" }

// GoString hides it from %#v.
func (t Token) GoString() string { return t.String() }

// shownToken is a token in a text, with a secret of any length.
var shownToken = regexp.MustCompile(`(?i)srt_[a-z0-9-]+_[0-9a-f]+`)

// Hide is a text, for a log or an error, with all in it gone that looks like a token: people paste them in the wrong place.
func Hide(text string) string { return shownToken.ReplaceAllString(text, tokenMark+"…") }
