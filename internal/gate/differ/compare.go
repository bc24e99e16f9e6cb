package main

import (
	"bytes"
	"slices"
	"strconv"
	"strings"
)

// rule says how far two replies to one command may differ. Errors must always be the same bytes.
type rule uint8

const (
	exact  rule = iota
	sorted      // the same elements in any order: that of a hash table, which is random in every process
	near        // numbers up to thirty seconds apart: the two stores executed it at two times
	length      // the same kind and number of elements: drawn at random, or in the order of a hash table
	kind        // the same kind: of the server, not of the data
)

// apart is what near allows, in milliseconds and, being generous, in seconds.
const apart = 30_000

// rules are all commands whose replies are not compared byte by byte. CONTAINER|* is for subcommands.
var rules = map[string]rule{
	"KEYS": sorted, "SCAN": sorted, "SMEMBERS": sorted, "SSCAN": sorted, "HSCAN": sorted, "ZSCAN": sorted, "SUNION": sorted, "SINTER": sorted, "SDIFF": sorted,
	"SORT": sorted, "SORT_RO": sorted, "PUBSUB|CHANNELS": sorted, "PUBSUB|SHARDCHANNELS": sorted, "ACL|CAT": sorted,
	"FUNCTION|LIST": sorted,
	// Valkey keeps a hash whose fields have times of their own as a hash table.
	"HGETALL": sorted, "HKEYS": sorted, "HVALS": sorted,
	"TTL": near, "PTTL": near, "EXPIRETIME": near, "PEXPIRETIME": near, "OBJECT|IDLETIME": near, "XPENDING": near, "XINFO|*": near,
	"LASTSAVE": near,
	"DUMP":     length, "SRANDMEMBER": length, "HRANDFIELD": length, "ZRANDMEMBER": length, "TIME": length, "ACL|GENPASS": length,
	"RANDOMKEY": kind, "HELLO": kind, "INFO": kind, "ROLE": kind, "LATENCY|*": kind, "SLOWLOG|*": kind, "COMMANDLOG|*": kind,
	"MEMORY|*": kind, "CLIENT|ID": kind, "CLIENT|INFO": kind, "CLIENT|LIST": kind, "FUNCTION|STATS": kind, "COMMAND|*": sorted,
}

func ruleOf(name string) rule {
	if r, ok := rules[name]; ok {
		return r
	}
	container, _, _ := strings.Cut(name, "|")
	return rules[container+"|*"]
}

// same reports whether two replies to the command are the same as far as its rule goes. Of EXEC, queued are the
// commands of the transaction.
func same(name string, queued []string, a, b []byte) bool {
	if bytes.Equal(a, b) {
		return true
	}
	x, y := parse(a), parse(b)
	if name != "EXEC" {
		return x.like(y, ruleOf(name))
	}
	if x.kind != y.kind || len(x.list) != len(y.list) || len(x.list) != len(queued) {
		return false
	}
	for i := range x.list {
		if !x.list[i].like(y.list[i], ruleOf(queued[i])) {
			return false
		}
	}
	return true
}

func (v value) like(w value, r rule) bool {
	if v.kind != w.kind || v.kind == '-' && v.text != w.text {
		return false
	}
	switch r {
	case sorted:
		return slices.Equal(v.leaves(), w.leaves())
	case near:
		return v.near(w)
	case length:
		return len(v.list) == len(w.list)
	case kind:
		return true
	}
	return v.kind == w.kind && v.text == w.text && slices.EqualFunc(v.list, w.list, func(x, y value) bool { return x.like(y, exact) })
}

// leaves are all elements within, each with its kind, in order.
func (v value) leaves() []string {
	var all []string
	var walk func(value)
	walk = func(v value) {
		if v.list == nil {
			all = append(all, string(v.kind)+v.text)
		}
		for _, w := range v.list {
			walk(w)
		}
	}
	walk(v)
	slices.Sort(all)
	return all
}

func (v value) near(w value) bool {
	if v.kind != w.kind || len(v.list) != len(w.list) {
		return false
	}
	for i := range v.list {
		if !v.list[i].near(w.list[i]) {
			return false
		}
	}
	if v.text == w.text {
		return true
	}
	a, errA := strconv.ParseInt(v.text, 10, 64)
	b, errB := strconv.ParseInt(w.text, 10, 64)
	return v.kind == ':' && errA == nil && errB == nil && a >= 0 && b >= 0 && max(a-b, b-a) <= apart
}
