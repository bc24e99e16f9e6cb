package httpapi

import (
	"context"
	"net"
	"strconv"
	"strings"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/scope"
)

// parsePrefix reads the text form of a prefix from the named field.
func parsePrefix(field, text string) (scope.Prefix, error) {
	p, err := scope.ParsePrefix(text)
	if err != nil {
		return "", invalid("%s: %v", field, err)
	}
	return p, nil
}

// parseKey reads the text form of a key.
func parseKey(text string) ([]byte, error) {
	raw, err := scope.ParseBytes(text)
	if err != nil {
		return nil, invalid("key: %v", err)
	}
	if len(raw) > scope.MaxKeyLen {
		return nil, invalid("the key has %d bytes, the limit is %d", len(raw), scope.MaxKeyLen)
	}
	return []byte(raw), nil
}

// checkNode checks a node id from the named field; empty is an error.
func checkNode(field, id string) error {
	if err := scope.NodeID(id).Check(); err != nil {
		return invalid("%s: %v", field, err)
	}
	return nil
}

// checkNodes checks pairs of field and id, of which the id may be empty: what
// is required, the schema and the command say.
func checkNodes(pairs ...string) error {
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] == "" {
			continue
		}
		if err := checkNode(pairs[i], pairs[i+1]); err != nil {
			return err
		}
	}
	return nil
}

// checkRandom checks a session's id or an identity from the named field: what
// the log refuses shall not stand in its words a thousand times as long.
func checkRandom(field, text string) error {
	if text == "" || len(text) > fsm.MaxRandom {
		return invalid("%s has %d bytes; it needs 1 to %d", field, len(text), fsm.MaxRandom)
	}
	if i := strings.IndexFunc(text, func(c rune) bool { return c <= ' ' || c > '~' }); i >= 0 {
		return invalid("%s %s has at byte %d a blank, or what is not printable ASCII; leave it out", field, shown(text), i)
	}
	return nil
}

// checkFenced checks the word that a node is off; both may be empty.
func checkFenced(at, node, identity string) error {
	if err := checkNodes(at+"source_fenced", node); err != nil || identity == "" {
		return err
	}
	if node == "" {
		return invalid("%ssource_fenced_identity %s is given without source_fenced; name the node too", at, shown(identity))
	}
	return checkRandom(at+"source_fenced_identity", identity)
}

// given reports whether the query has the parameter at all: an empty prefix is
// a prefix, so that leaving it out must not mean it.
func given(ctx context.Context, name string) bool {
	r := replyOf(ctx)
	return r != nil && r.request.URL.Query().Has(name)
}

// subject reads the query's prefix, which has to be there.
func subject(ctx context.Context, text string) (scope.Prefix, error) {
	if !given(ctx, "prefix") {
		return "", invalid("the query names no prefix; add ?prefix=, also for the empty one")
	}
	return parsePrefix("prefix", text)
}

// ifMatch reads an epoch from If-Match, quoted or not; "" is 0, not compared.
func ifMatch(text string) (uint64, error) {
	if text == "" {
		return 0, nil
	}
	bare := text
	if len(text) >= 2 && strings.HasPrefix(text, `"`) && strings.HasSuffix(text, `"`) {
		bare = text[1 : len(text)-1]
	}
	epoch, err := strconv.ParseUint(bare, 10, 64)
	if err != nil || epoch == 0 {
		return 0, invalid("If-Match %s is not an epoch; give the number that GET shows", shown(text))
	}
	return epoch, nil
}

// pageLimit is how many records a list gives.
func pageLimit(asked int) (int, error) {
	switch {
	case asked == 0:
		return defaultList, nil
	case asked < 0 || asked > MaxList:
		return 0, invalid("limit %d is not between 1 and %d", asked, MaxList)
	}
	return asked, nil
}

func remoteHost(ctx context.Context) string {
	r := replyOf(ctx)
	if r == nil {
		return "unknown"
	}
	host, _, err := net.SplitHostPort(r.request.RemoteAddr)
	if err != nil {
		host = "unknown"
	}
	// A zone of an IPv6 address may hold anything; the actor may not.
	if len("anonymous@")+len(host) > MaxHeaderText || headerText(api.HeaderActor, host) != nil {
		return "unknown"
	}
	return host
}
