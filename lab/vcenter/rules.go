package main

import (
	"fmt"
	"math/rand"
	"net/http"
	"path"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/vmware/govmomi/vim25/types"
)

const setByTest = "set by a test"

// When a fault strikes.
const (
	atCall = "call" // instead of the call
	atTask = "task" // in the task, instead of its work
	atLate = "late" // in the task, after its work: what it made stays
	atLost = "lost" // the work is done, and the connection breaks before its answer
)

// delayRule makes calls take time. Seconds counts in the task, or in the call where there is no task.
type delayRule struct {
	Method     string  `json:"method"`
	Host       string  `json:"host"`
	Seconds    float64 `json:"seconds"`
	Serialized float64 `json:"serialized"`
	Call       float64 `json:"call"`
}

// faultRule makes calls fail: Fault is a fault's name in the API, or "drop" for a connection that breaks.
type faultRule struct {
	Method string  `json:"method"`
	Host   string  `json:"host"`
	Fault  string  `json:"fault"`
	When   string  `json:"when"`
	Rate   float64 `json:"rate"`
	Count  int     `json:"count"`
	Struck int     `json:"struck"`
}

// guestRule makes guests misbehave: "silent", "sick", "unfreezable", "stopped" (the clock stays the parent's), "plugged"
// (the fork leaves the last adapter connected), "engineless" (its tools cannot customize it), or "unproved" with the
// point that they cannot prove.
type guestRule struct {
	Host   string  `json:"host"`
	Kind   string  `json:"kind"`
	Point  string  `json:"point"`
	Rate   float64 `json:"rate"`
	Count  int     `json:"count"`
	Struck int     `json:"struck"`
}

// ruleSet is what can be set while it runs; a new one replaces the old as a whole.
type ruleSet struct {
	Seed   int64        `json:"seed"`
	Delays []delayRule  `json:"delays"`
	Faults []*faultRule `json:"faults"`
	Guests []*guestRule `json:"guests"`
}

type rules struct {
	mutex sync.Mutex
	set   ruleSet
	dice  *rand.Rand
}

type delay struct {
	total      time.Duration
	serialized time.Duration
}

func (d delay) rest() time.Duration { return d.total - d.serialized }

type trouble struct {
	silent      bool
	sick        bool
	unfreezable bool
	stopped     bool
	plugged     bool
	engineless  bool
	unproved    string
}

func newRules() *rules { return &rules{dice: rand.New(rand.NewSource(1))} }

func (r *rules) replace(fresh ruleSet) error {
	for _, one := range fresh.Faults {
		if one.Fault != "drop" {
			if _, err := makeFault(one.Fault); err != nil {
				return err
			}
		}
		switch one.When {
		case atCall, atTask, atLate, atLost:
		default:
			return fmt.Errorf("when: %q is none of %s, %s, %s, %s", one.When, atCall, atTask, atLate, atLost)
		}
	}
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.set, r.dice = fresh, rand.New(rand.NewSource(fresh.Seed))
	return nil
}

func (r *rules) get() ruleSet {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	copied := r.set
	copied.Faults, copied.Guests = nil, nil
	for _, one := range r.set.Faults {
		own := *one
		copied.Faults = append(copied.Faults, &own)
	}
	for _, one := range r.set.Guests {
		own := *one
		copied.Guests = append(copied.Guests, &own)
	}
	return copied
}

func matches(pattern, name string) bool {
	if pattern == "" || pattern == "*" || pattern == name {
		return true
	}
	fits, err := path.Match(pattern, name)
	return err == nil && fits
}

func (r *rules) find(method, host string) *delayRule {
	for index := range r.set.Delays {
		if one := &r.set.Delays[index]; matches(one.Method, method) && matches(one.Host, host) {
			return one
		}
	}
	return nil
}

// delay of a task; the first rule that fits holds.
func (r *rules) delay(method, host string) delay {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	found := r.find(method, host)
	if found == nil {
		return delay{}
	}
	return delay{total: seconds(found.Seconds), serialized: min(seconds(found.Serialized), seconds(found.Seconds))}
}

func (r *rules) callDelay(method, host string) time.Duration {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	if found := r.find(method, host); found != nil {
		return seconds(found.Call)
	}
	return 0
}

func seconds(number float64) time.Duration { return time.Duration(number * float64(time.Second)) }

// fault is one that strikes now.
type fault struct {
	rule faultRule
}

func (f *fault) isDrop() bool { return f.rule.Fault == "drop" }
func (f *fault) isLate() bool { return f.rule.When == atLate }

func (f *fault) make(on types.ManagedObjectReference) types.BaseMethodFault {
	made, err := makeFault(f.rule.Fault)
	if err != nil {
		return &types.SystemError{Reason: err.Error()}
	}
	fill(reflect.ValueOf(made).Elem(), on)
	if denied, ok := made.(*types.NoPermission); ok {
		denied.Object = &on
		if needed := privileges[f.rule.Method]; len(needed) > 0 {
			denied.PrivilegeId = needed[0]
		}
	}
	return made
}

// fill what the API requires of a fault: a client cannot read one with an empty reference or enumeration.
func fill(value reflect.Value, on types.ManagedObjectReference) {
	for index := range value.NumField() {
		field, described := value.Field(index), value.Type().Field(index)
		switch {
		case described.Anonymous:
			fill(field, on)
		case strings.Contains(described.Tag.Get("xml"), ",omitempty"):
		case field.Type() == reflect.TypeOf(on):
			reference := on
			if described.Name == "Task" {
				reference = types.ManagedObjectReference{Type: "Task", Value: "task-1"}
			}
			field.Set(reflect.ValueOf(reference))
		case field.Type() == reflect.TypeOf(types.LocalizedMethodFault{}):
			inner := types.LocalizedMethodFault{Fault: &types.SystemError{Reason: setByTest}, LocalizedMessage: setByTest}
			field.Set(reflect.ValueOf(inner))
		case field.Kind() == reflect.String:
			field.SetString(firstValue(field))
		}
	}
}

// firstValue is an enumeration's first, and for any other text one that says where it comes from.
func firstValue(field reflect.Value) string {
	if values := field.MethodByName("Strings"); values.IsValid() {
		if all, ok := values.Call(nil)[0].Interface().([]string); ok && len(all) > 0 {
			return all[0]
		}
	}
	return setByTest
}

func makeFault(name string) (types.BaseMethodFault, error) {
	kind, known := types.TypeFunc()(name)
	if !known {
		return nil, fmt.Errorf("fault: the API has no %q", name)
	}
	made, isFault := reflect.New(kind).Interface().(types.BaseMethodFault)
	if !isFault {
		return nil, fmt.Errorf("fault: %q is no fault", name)
	}
	return made, nil
}

// fault that strikes this call at this moment, if any.
func (r *rules) fault(method, host, when string) *fault {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	for _, one := range r.set.Faults {
		fits := one.When == when || (when == atTask && one.When == atLate)
		if !fits || !matches(one.Method, method) || !matches(one.Host, host) {
			continue
		}
		if r.strikes(one.Rate, one.Count, &one.Struck) {
			return &fault{rule: *one}
		}
	}
	return nil
}

// strikes decides by the rate; at most *count* times, unless that is 0.
func (r *rules) strikes(rate float64, count int, struck *int) bool {
	if count > 0 && *struck >= count {
		return false
	}
	if r.dice.Float64() >= rate {
		return false
	}
	*struck++
	return true
}

// loseAnswer breaks the connection of a call that has been done; nothing may be locked here.
func (r *rules) loseAnswer(method, host string) {
	if r.fault(method, host, atLost) != nil {
		panic(http.ErrAbortHandler)
	}
}

func (r *rules) troubleOf(host string) trouble {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	var found trouble
	for _, one := range r.set.Guests {
		if !matches(one.Host, host) || !r.strikes(one.Rate, one.Count, &one.Struck) {
			continue
		}
		switch one.Kind {
		case "silent":
			found.silent = true
		case "sick":
			found.sick = true
		case "unfreezable":
			found.unfreezable = true
		case "stopped":
			found.stopped = true
		case "plugged":
			found.plugged = true
		case "engineless":
			found.engineless = true
		case "unproved":
			found.unproved = one.Point
		}
	}
	return found
}

// counter counts calls per method.
type counter struct {
	mutex sync.Mutex
	calls map[string]int
}

func newCounter() *counter { return &counter{calls: map[string]int{}} }

func (c *counter) add(name string) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	c.calls[name]++
}

func (c *counter) take(reset bool) map[string]int {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	taken := make(map[string]int, len(c.calls))
	for name, count := range c.calls {
		taken[name] = count
	}
	if reset {
		c.calls = map[string]int{}
	}
	return taken
}
