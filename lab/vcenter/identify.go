package main

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"time"
)

// points are the 13 things that a fork must not share, as forkyard/wire.py lists them.
var points = []string{
	"mac", "address", "hostname", "machine_id", "ssh_host_keys", "dhcp_client_id", "kernel_rng",
	"app", "clock", "consul_node", "fork_uuid", "tcp_connections", "container_identity",
}

const seedBytes = 32

// identify takes an identity, proving each point; the first that cannot be proved ends it.
func (g *guest) identify(text json.RawMessage, mac string) map[string]any {
	began := time.Now()
	var wanted identity
	if err := json.Unmarshal(text, &wanted); err != nil {
		return failed("identity: " + err.Error())
	}
	if g.state.agent == "identified" {
		if g.identity.ForkID == wanted.ForkID {
			return map[string]any{"ok": true, "report": g.report}
		}
		return failed(fmt.Sprintf("identified already as %s of fork %s", g.identity.Name, g.identity.ForkID))
	}
	wrong := ""
	proofs := make([]map[string]any, 0, len(points))
	for _, point := range points {
		value, detail := g.prove(point, &wanted, mac)
		proved := detail == ""
		if !proved && wrong == "" {
			wrong = point + ": " + detail
		}
		proofs = append(proofs, map[string]any{
			"point": point, "value": value, "proved": proved, "seconds": time.Since(began).Seconds(), "detail": detail,
		})
	}
	report := map[string]any{"fork_id": wanted.ForkID, "points": proofs, "seconds": time.Since(began).Seconds()}
	g.mutex.Lock()
	defer g.mutex.Unlock()
	g.identity, g.report = &wanted, report
	if wrong != "" {
		g.state.agent = "failed"
		return map[string]any{"ok": false, "error": wrong, "report": report}
	}
	g.state.agent = "identified"
	g.state.ticks.resume()
	return map[string]any{"ok": true, "report": report}
}

// prove gives a point's value, or what is wrong with it.
func (g *guest) prove(point string, wanted *identity, mac string) (string, string) {
	if point == g.trouble.unproved {
		return "", "could not be proved, as was set"
	}
	switch point {
	case "mac":
		if !strings.EqualFold(mac, wanted.MAC) {
			return mac, fmt.Sprintf("the device has %s, not %s", mac, wanted.MAC)
		}
		return strings.ToLower(mac), ""
	case "address":
		if ip, _, err := net.ParseCIDR(wanted.Address); err != nil || !ip.IsLoopback() {
			return wanted.Address, "a guest of this vCenter can only have an address in 127.0.0.0/8"
		}
		return wanted.Address, ""
	case "hostname":
		return wanted.Name, missing(wanted.Name)
	case "machine_id":
		if raw, err := hex.DecodeString(wanted.MachineID); err != nil || len(raw) != 16 {
			return "", fmt.Sprintf("'%s' is not 32 lower-case hexadecimal digits", wanted.MachineID)
		}
		return wanted.MachineID, ""
	case "kernel_rng":
		seed, err := base64.StdEncoding.DecodeString(wanted.Seed)
		if err != nil || len(seed) < seedBytes {
			return "", "the seed is not base64 of 32 bytes"
		}
		return fingerprint(seed), ""
	case "ssh_host_keys", "app":
		fresh := make([]byte, seedBytes)
		_, _ = rand.Read(fresh)
		return fingerprint(fresh), ""
	case "dhcp_client_id":
		return "00:04:" + fingerprint([]byte(wanted.MachineID)), ""
	case "clock":
		if g.trouble.stopped {
			return time.Unix(int64(wanted.WallClock), 0).Add(-time.Hour).UTC().Format(time.RFC3339), ""
		}
		return time.Unix(int64(wanted.WallClock), 0).UTC().Format(time.RFC3339), ""
	case "consul_node":
		return wanted.Name + " " + wanted.ConsulNodeID, missing(wanted.ConsulNodeID)
	case "fork_uuid":
		return wanted.ForkID, missing(wanted.ForkID)
	case "tcp_connections":
		return "none", ""
	}
	return wanted.Name + " " + wanted.ForkID, ""
}

func missing(value string) string {
	if value == "" {
		return "the identity has none"
	}
	return ""
}

func fingerprint(secret []byte) string {
	sum := sha256.Sum256(secret)
	return hex.EncodeToString(sum[:16])
}

func hostPart(address string) string {
	host, _, _ := strings.Cut(address, "/")
	return host
}
