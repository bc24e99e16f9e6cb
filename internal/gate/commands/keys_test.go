package commands

import (
	"errors"
	"os"
	"strings"
	"testing"
)

// keysOf tells the keys of a line: those written with an exclamation mark; or the refusal.
func keysOf(t testing.TB, line string) string {
	t.Helper()
	words := args(line)
	c, ok := table(t).Find(words)
	if !ok {
		t.Fatalf("%s is no command", line)
	}
	keys, err := c.AppendKeys(nil, words)
	if err != nil {
		return err.Error()
	}
	var parts []string
	for _, k := range keys {
		part := string(words[k.At])
		if k.Writes {
			part += "!"
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, " ")
}

// Lines with their keys, those written with an exclamation mark, or with the refusal.
var (
	keysAtPlaces = map[string]string{
		"GET a":                       "a",
		"get":                         "",
		"SET a v":                     "a!",
		"SET":                         "",
		"MSET a 1 b 2":                "a! b!",
		"MSET a 1 b":                  "a! b!",
		"DEL a b c":                   "a! b! c!",
		"PFCOUNT a b":                 "a b",
		"RENAME a b":                  "a! b!",
		"RENAME a":                    "a!",
		"SMOVE a b m":                 "a! b!",
		"BITOP AND d a b":             "d! a b",
		"SINTERSTORE d a b":           "d! a b",
		"ZUNIONSTORE d 2 a b WEIGHTS": "d! a b",
		"BLPOP a b 0":                 "a! b!",
		"BLPOP a":                     "",
		"BLMPOP 0 2 a b LEFT":         "a! b!",
		"LMPOP 1 a LEFT":              "a!",
		"MSETEX 2 a 1 b 2 EX 10":      "a! b!",
		"OBJECT ENCODING a":           "a",
		"MEMORY USAGE a":              "a",
		"XGROUP CREATE a g $":         "a!",
		"WATCH a b":                   "a b",
		"PUBLISH ch x":                "",
		"SPUBLISH ch x":               "",
		"SSUBSCRIBE ch":               "",
		"FUNCTION LOAD code":          "",
		"EVAL s 2 a b c":              "a! b!",
		"EVAL s 0 a":                  "",
		"EVAL_RO s 1 a b":             "a",
		"FCALL f 1 a b":               "a!",
		"ZUNION 2 a b":                "a b",
	}
	keysCounted = map[string]string{
		"EVAL s 3 a b":                    "ERR Number of keys can't be greater than number of args",
		"EVAL s 99999999999999999999 a":   "ERR value is not an integer or out of range",
		"EVAL s 9223372036854775807 a":    "ERR Number of keys can't be greater than number of args",
		"EVAL s -1 a":                     "ERR Number of keys can't be negative",
		"EVAL s +1 a":                     "ERR value is not an integer or out of range",
		"EVAL s 01 a":                     "ERR value is not an integer or out of range",
		"EVAL s -0 a":                     "ERR value is not an integer or out of range",
		"EVAL s x a":                      "ERR value is not an integer or out of range",
		"EVAL s":                          "",
		"LMPOP 0 a LEFT":                  "",
		"MSETEX 2 a 1 b":                  "a! b!",
		"MSETEX 3 a 1 b 2":                "ERR Number of keys can't be greater than number of args",
		"SORT a BY STORE GET STORE ALPHA": "a",
		"SORT a LIMIT 0 STORE STORE d":    "a d!",
		"sort a limit 0 1 store d":        "a d!",
		"SORT a STORE b STORE c":          "a b! c!",
		"SORT a STORE":                    "a",
		"SORT_RO a BY w":                  "a",
	}
	keysBehindOptions = map[string]string{
		"GEORADIUS a 1 2 3 m":                              "a",
		"GEORADIUS a 1 2 3 m STORE STORE":                  "a STORE!",
		"GEORADIUS a 1 2 3 m STORE b STOREDIST c":          "a b! c!",
		"GEORADIUS STORE 1 2 3 m COUNT STORE store b":      "STORE b!",
		"GEORADIUSBYMEMBER a STORE 3 m STOREDIST b":        "a b!",
		"GEOSEARCHSTORE d a FROMMEMBER m BYRADIUS 1 m":     "d! a",
		"XREAD STREAMS a b 0 0":                            "a b",
		"XREAD COUNT STREAMS STREAMS a 0":                  "a",
		"XREAD STREAMS":                                    "",
		"XREAD COUNT 1":                                    "",
		"XREADGROUP GROUP g c STREAMS a b > >":             "a! b!",
		"XREADGROUP GROUP g STREAMS STREAMS a >":           "a!",
		"XREADGROUP COUNT 1 GROUP STREAMS x STREAMS a >":   "a!",
		"XREADGROUP GROUP g c BLOCK 0 NOACK STREAMS a b >": "a!",
		"BITFIELD a GET u8 0 GET u8 1":                     "a",
		"BITFIELD a GET u8 0 SET u8 0 1":                   "a!",
		"BITFIELD a OVERFLOW SAT INCRBY u8 0 1":            "a!",
		"BITFIELD a GET":                                   "a",
		"BITFIELD":                                         "",
		"COPY a b":                                         "a b!",
		"COPY a b REPLACE DB 0":                            "a b!",
		"COPY a b db 1":                                    ErrOtherDatabase.Error(),
		"COPY DB DB":                                       "DB DB!",
		"COPY a b DB 0 DB 3":                               ErrOtherDatabase.Error(),
		"COPY a b DB":                                      "a b!",
	}
	configNames = map[string]string{
		"CONFIG GET maxmemory save":    "",
		"CONFIG GET maxmemory*":        "",
		"CONFIG GET REQUIREPASS":       ErrSecret.Error(),
		"CONFIG GET save *":            ErrSecret.Error(),
		"CONFIG GET Re*":               ErrSecret.Error(),
		"CONFIG GET requirepass?":      ErrSecret.Error(),
		"CONFIG GET [r]equirepass":     ErrSecret.Error(),
		"CONFIG GET m?sterauth":        ErrSecret.Error(),
		`CONFIG GET require\pass`:      ErrSecret.Error(),
		"CONFIG GET requirepassword":   "",
		"CONFIG GET requirepassword*":  "",
		"CONFIG GET":                   "",
		"CONFIG GET tls-client-key-f*": ErrSecret.Error(),
	}
)

func TestAppendKeys(t *testing.T) {
	for _, lines := range []map[string]string{keysAtPlaces, keysCounted, keysBehindOptions, configNames} {
		for line, want := range lines {
			if got := keysOf(t, line); got != want {
				t.Errorf("%s: keys %q, want %q", line, got, want)
			}
		}
	}
}

func TestMayPark(t *testing.T) {
	checked := table(t)
	for line, want := range map[string]bool{
		"GET a": false, "BLPOP a 0": true, "WAIT 1 0": true, "BLMOVE a b LEFT RIGHT 0": true,
		"XREAD STREAMS a 0": false, "XREAD STREAMS BLOCK 0": false, "XREAD block 0 STREAMS a 0": true, "XREAD COUNT BLOCK STREAMS a 0": false,
		"XREADGROUP GROUP BLOCK BLOCK STREAMS a >": false, "XREADGROUP GROUP g c BLOCK 0 STREAMS a >": true, "XREAD": false,
	} {
		words := args(line)
		if c, _ := checked.Find(words); c.MayPark(words) != want {
			t.Errorf("%s may park: %v", line, !want)
		}
	}
}

// Whatever the arguments, keys lie within them, in order of no more than there are, and errors are whole lines.
func FuzzAppendKeys(f *testing.F) {
	for _, seed := range []string{"GET a", "EVAL s 2 a b", "SORT a STORE b", "XREAD STREAMS a 0", "COPY a b DB 1", "CONFIG GET a*", "MSETEX 2 a 1 b 2",
		"GEORADIUS a 1 2 3 m STORE", "LMPOP -1", "ZUNIONSTORE d 9 a", "BITFIELD a GET", "CLIENT KILL", "XGROUP CREATE", "MIGRATE h p k 0 0 KEYS a"} {
		f.Add(seed)
	}
	checked := table(f)
	f.Fuzz(func(t *testing.T, line string) {
		words := args(line)
		c, ok := checked.Find(words)
		if !ok {
			return
		}
		keys, err := c.AppendKeys(nil, words)
		if err != nil && !strings.HasPrefix(err.Error(), "ERR ") {
			t.Errorf("%q: %v", line, err)
		}
		if len(keys) > 2*len(words) {
			t.Errorf("%q has %d keys", line, len(keys))
		}
		for _, k := range keys {
			if k.At < 1 || k.At >= len(words) {
				t.Errorf("%q: a key at %d", line, k.At)
			}
			if k.Writes && c.Policy == Pass {
				t.Errorf("%q: %s passes and writes", line, c.Name)
			}
		}
		c.MayPark(words)
	})
}

// Every command of the table, with any number of arguments, answers within its arguments.
func TestEveryCommandWithFewArguments(t *testing.T) {
	for _, c := range table(t).All() {
		words := args(strings.ReplaceAll(c.Name, "|", " ") + " 1 2 3 a 5 STORE 7 STREAMS 9")
		for n := range words {
			keys, err := c.AppendKeys(nil, words[:n+1])
			for _, k := range keys {
				if k.At < 1 || k.At > n {
					t.Errorf("%s with %d arguments: a key at %d", c.Name, n, k.At)
				}
			}
			if err != nil && errors.Is(err, ErrOtherDatabase) {
				t.Errorf("%s: %v", c.Name, err)
			}
		}
	}
}

// The documentation has the words of every refusal, and every command that is forwarded.
func TestDocumentation(t *testing.T) {
	text, err := os.ReadFile("../../../docs/gate-commands.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{ErrOtherDatabase, ErrSecret, errNotInteger, errTooManyKeys, errNegative} {
		if !strings.Contains(string(text), "| -"+err.Error()+" |") {
			t.Errorf("docs/gate-commands.md lacks the refusal %q", err)
		}
	}
	for _, c := range table(t).All() {
		words := strings.ReplaceAll(c.Name, "|", " ")
		want := "\n| " + words + " | "
		if c.Policy == Refuse {
			want = "| -ERR NAME" + strings.TrimPrefix(c.Why, "ERR "+words) + " |"
		}
		if !strings.Contains(string(text), want) && (c.subs == nil || c.Name == "COMMAND") {
			t.Errorf("docs/gate-commands.md lacks %s", c.Name)
		}
	}
}

// The table holds what the design says of single commands.
func TestPolicies(t *testing.T) {
	checked := table(t)
	for policy, names := range map[Policy]string{ //nolint:gosec // AUTH is the name of a command
		Refuse: "FLUSHALL FLUSHDB SWAPDB MOVE MIGRATE REPLICAOF SLAVEOF FAILOVER PSYNC SYNC REPLCONF MONITOR DEBUG SHUTDOWN CLIENT|REPLY CLIENT|KILL CLIENT|PAUSE " +
			"CONFIG|SET CONFIG|REWRITE CLUSTER|INFO CLUSTER|SLOTS CLUSTER|FLUSHSLOT MODULE|LOAD ACL|SETUSER SCRIPT|DEBUG RESTORE-ASKING ASKING READONLY READWRITE",
		Write:       "SET DEL EVAL EVALSHA FCALL XREADGROUP SORT GEORADIUS COPY RESTORE PFDEBUG FUNCTION|LOAD FUNCTION|FLUSH XGROUP|CREATE BLPOP GETEX UNLINK EXPIRE PFADD",
		Pass:        "GET PUBLISH SPUBLISH PFCOUNT EVAL_RO FCALL_RO XREAD SCAN KEYS TOUCH OBJECT|ENCODING PING INFO SAVE BGSAVE SCRIPT|LOAD WAIT CONFIG|GET COMMAND DUMP",
		Transaction: "MULTI EXEC DISCARD WATCH UNWATCH",
		Subscribe:   "SUBSCRIBE PSUBSCRIBE SSUBSCRIBE UNSUBSCRIBE PUNSUBSCRIBE SUNSUBSCRIBE",
		Session:     "SELECT HELLO AUTH RESET QUIT CLIENT|SETNAME CLIENT|GETNAME CLIENT|SETINFO CLIENT|ID CLIENT|TRACKING CLIENT|CACHING CLIENT|NO-EVICT",
	} {
		for name := range strings.FieldsSeq(names) {
			c, ok := checked.Find(args(strings.ReplaceAll(name, "|", " ")))
			if !ok || c.Policy != policy {
				t.Errorf("%s is %v, want policy %d", name, c, policy)
			}
		}
	}
	for _, c := range checked.All() {
		refused := c.Policy == Refuse
		if refused != strings.HasPrefix(c.Why, "ERR "+strings.ReplaceAll(c.Name, "|", " ")+" ") || strings.ContainsAny(c.Why, "\r\n") {
			t.Errorf("%s has the policy %d and the refusal %q", c.Name, c.Policy, c.Why)
		}
	}
}
