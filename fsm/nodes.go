package fsm

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/scope"
)

func (tx *txn) setNode(c *SetNode) *api.Error {
	id := scope.NodeID(c.GetId())
	if err := id.Check(); err != nil {
		return refuse(api.Invalid, "%v", err)
	}
	if err := checkAddr(c.GetAddr()); err != nil {
		return err
	}
	n, known := tx.node(id)
	if known && n.Addr == c.GetAddr() {
		return nil
	}
	if !known && tx.NodesLen() >= MaxNodes {
		return refuse(api.Limit, "node %q would be one more than the limit of %d nodes; remove one first", c.GetId(), MaxNodes)
	}
	n.ID, n.Addr = id, c.GetAddr()
	put := tx.putNode(n)
	tx.configChanged()
	tx.emit(Event{Cause: "set", Node: &put.Node})
	return nil
}

// checkAddr refuses what MISDIRECTED could not name: clients parse the address
// to the end of the line.
func checkAddr(addr string) *api.Error {
	host, port, ok := cutLast(addr, ":")
	n, err := strconv.ParseUint(port, 10, 16)
	if !ok || host == "" || err != nil || n == 0 || len(addr) > MaxAddr {
		return refuse(api.Invalid, "address %q is not host:port with a port of 1 to 65535 and at most %d bytes", addr, MaxAddr)
	}
	for _, c := range []byte(host) {
		if c <= ' ' || c > '~' {
			return refuse(api.Invalid, "address %q holds a blank or a byte that is not printable ASCII", addr)
		}
	}
	return nil
}

func cutLast(s, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

func (tx *txn) removeNode(c *RemoveNode) *api.Error {
	n, ok := tx.node(scope.NodeID(c.GetId()))
	if !ok {
		return refuse(api.NotFound, "node %q is not declared", c.GetId())
	}
	if n.uses != (uses{}) {
		return refuse(api.NodeInUse, "node %q is still named by %d scopes, %d running moves, %d retired scopes and %d pending cleanups; "+
			"move or retire its scopes first, and once the node is off, clear what is retired: scope-registry scope retire PREFIX %s",
			c.GetId(), n.uses.scopes, n.uses.moves, n.uses.tombstones, n.uses.cleanups, tx.fencedFlags(n.ID))
	}
	if n.Live() {
		return refuse(api.NodeInUse, "node %q has a live session; stop its process first", c.GetId())
	}
	// Once every declared node has met the incarnation the hold ends. One that
	// has not may still write what it was given after the backup.
	if word := fencedWord(c); tx.cluster.Hold && !tx.Met(n.Node) {
		if word.node != n.ID {
			return tx.onHold(fmt.Sprintf("removing node %q without %s, the word that it is off,", n.ID, tx.fencedFlags(n.ID)))
		}
		if err := tx.checkFenced(word); err != nil {
			return err
		}
	}
	tx.nodes = tx.nodes.Without(scope.Prefix(n.ID))
	tx.unmet = tx.unmet.Without(scope.Prefix(n.ID))
	tx.configChanged()
	tx.emit(Event{Cause: "remove", Deleted: true, Node: &n.Node})
	return nil
}

// subject is the node that a command is about. One that nobody declared is not
// found, as with a record that is asked for; needNode is for those it names beside.
func (tx *txn) subject(id scope.NodeID) (nodeRecord, *api.Error) {
	if err := id.Check(); err != nil {
		return nodeRecord{}, refuse(api.Invalid, "node: %v", err)
	}
	n, ok := tx.node(id)
	if !ok {
		return n, refuse(api.NotFound, "node %q is not declared; declare it with: scope-registry node set %s HOST:PORT", id, id)
	}
	return n, nil
}

// needNode refuses a node that a body names and nobody declared.
func (tx *txn) needNode(id scope.NodeID, role string) *api.Error {
	if err := id.Check(); err != nil {
		return refuse(api.Invalid, "%s: %v", role, err)
	}
	if _, ok := tx.node(id); !ok {
		return refuse(api.NodeUnknown, "%s %q is not a declared node; declare it with: scope-registry node set %s HOST:PORT", role, id, id)
	}
	return nil
}
