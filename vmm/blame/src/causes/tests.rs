//! The table that comes with the crate, and tables that are wrong.

use super::*;

fn cause(functions: &[&str]) -> (String, Deferrable) {
    let causes = Causes::built_in().unwrap();
    let cause = causes.of(functions.iter().copied());
    (cause.name.to_owned(), cause.deferrable)
}

#[test]
fn chains_as_kernels_have_them_get_their_cause() {
    use Deferrable::{No, Omit, Unknown, Yes};
    for (chain, name, deferrable) in [
        (
            // 6.12, one flip.
            "x2apic_send_IPI_allbutself native_send_call_func_ipi smp_call_function_many_cond \
             on_each_cpu_cond_mask text_poke_bp_batch text_poke_finish \
             arch_jump_label_transform_apply __jump_label_update jump_label_update \
             static_key_enable_cpuslocked static_key_enable ipirig_flip",
            "static key",
            Yes,
        ),
        (
            // 7.2, which has other names.
            "smp_call_function_many_cond on_each_cpu_cond_mask smp_text_poke_batch_finish \
             arch_jump_label_transform_apply jump_label_update",
            "static key",
            Yes,
        ),
        (
            "on_each_cpu_cond_mask text_poke_bp_batch text_poke_bp __static_call_transform \
             arch_static_call_transform __static_call_update",
            "static call",
            Yes,
        ),
        (
            // 6.12 as Debian ships it, with nothing switched off.
            "irq_work_queue_on tick_nohz_dep_set_cpu enqueue_dl_entity dl_task_timer \
             __hrtimer_run_queues hrtimer_interrupt",
            "fair server",
            No,
        ),
        (
            "irq_work_queue_on add_timer_on clocksource_watchdog call_timer_fn __run_timers",
            "clocksource watchdog",
            No,
        ),
        (
            "on_each_cpu_cond_mask smp_text_poke_sync_each_cpu int3_update_optimize swbp_optimize \
             arch_uprobe_optimize",
            "uprobe",
            No,
        ),
        (
            "on_each_cpu_cond_mask text_poke_bp_batch text_poke_finish \
             arch_jump_label_transform_apply ipirig_flip_noinstr",
            "text patching in noinstr or entry text",
            No,
        ),
        (
            "on_each_cpu_cond_mask text_poke_bp_batch something_new",
            "text patching",
            Yes,
        ),
        (
            "on_each_cpu_cond_mask flush_tlb_kernel_range __purge_vmap_area_lazy _vm_unmap_aliases",
            "vunmap",
            Yes,
        ),
        (
            // Changing page attributes purges what is lazily unmapped: that part may wait.
            "on_each_cpu_cond_mask flush_tlb_kernel_range __purge_vmap_area_lazy \
             _vm_unmap_aliases vm_unmap_aliases change_page_attr_set_clr set_memory_ro",
            "vunmap",
            Yes,
        ),
        (
            // Debian's 6.12, by ORC: flush_tlb_kernel_range was left by a jump.
            "smp_call_function_many_cond on_each_cpu_cond_mask __purge_vmap_area_lazy \
             _vm_unmap_aliases change_page_attr_set_clr set_memory_rox",
            "vunmap",
            Yes,
        ),
        (
            "on_each_cpu_cond_mask __change_page_attr_set_clr change_page_attr_set_clr",
            "page attributes",
            No,
        ),
        (
            // Not what it was left for: the purge woke somebody up.
            "native_smp_send_reschedule try_to_wake_up __queue_work __purge_vmap_area_lazy",
            "queued work",
            No,
        ),
        (
            "on_each_cpu_cond_mask flush_tlb_all __change_page_attr_set_clr \
             change_page_attr_set_clr set_memory_uc",
            "page attributes",
            No,
        ),
        (
            "on_each_cpu_cond_mask flush_tlb_kernel_range pmd_free_pte_page vmap_range_noflush",
            "page-table free",
            No,
        ),
        (
            "on_each_cpu_cond_mask tlb_remove_table_sync_one collapse_huge_page",
            "GUP sync",
            Omit,
        ),
        (
            "native_smp_send_reschedule try_to_wake_up swake_up_one rcu_gp_fqs_loop",
            "RCU",
            No,
        ),
        (
            "native_smp_send_reschedule ttwu_queue_wakelist try_to_wake_up",
            "wake-up",
            No,
        ),
        (
            "irq_work_queue_on tick_nohz_full_kick_cpu tick_nohz_dep_set_cpu",
            "tick kick",
            No,
        ),
        (
            "native_smp_send_reschedule kick_process signal_wake_up_state",
            "signal",
            No,
        ),
        (
            // Without frame pointers: the balancing in between was left by jumps.
            "__wrmsr native_write_msr x2apic_send_IPI smp_call_function_single_async \
             update_process_times tick_nohz_handler asm_sysvec_apic_timer_interrupt \
             text_poke_bp_batch",
            "tick",
            No,
        ),
        ("x2apic_send_IPI", "unknown", Unknown),
        ("", "unknown", Unknown),
    ] {
        let functions: Vec<&str> = chain.split_whitespace().collect();
        assert_eq!(cause(&functions), (name.to_owned(), deferrable), "{chain}");
    }
}

#[test]
fn who_asked_is_told_where_the_cause_says_only_what_was_asked_for() {
    let causes = Causes::built_in().unwrap();
    for (chain, name, by) in [
        (
            "native_smp_send_reschedule resched_curr ttwu_do_activate try_to_wake_up kick_pool \
             __queue_work queue_work_on schedule_work_on smp_call_on_cpu coretemp_probe",
            "queued work",
            Some("coretemp_probe"),
        ),
        (
            // It has a name of its own, further in than who wrote the sysctl.
            "native_smp_send_reschedule try_to_wake_up kick_pool __queue_work queue_work_on \
             schedule_on_each_cpu vmstat_refresh proc_sys_call_handler vfs_write",
            "vmstat",
            None,
        ),
        (
            "try_to_wake_up kick_pool __queue_work queue_work_on __lru_add_drain_all.constprop.0 \
             drop_caches_sysctl_handler proc_sys_call_handler",
            "LRU drain",
            Some("drop_caches_sysctl_handler"),
        ),
        (
            "x2apic_send_IPI try_to_wake_up __queue_work delayed_work_timer_fn \
             asm_sysvec_apic_timer_interrupt vfs_write",
            "queued work",
            Some("delayed_work_timer_fn"),
        ),
        (
            "try_to_wake_up wake_up_q futex_wake do_futex __x64_sys_futex",
            "wake-up",
            Some("futex_wake"),
        ),
        (
            "x2apic_send_IPI smp_call_function_many_cond on_each_cpu_cond_mask new_driver_sync",
            "function call",
            Some("new_driver_sync"),
        ),
        (
            "native_send_call_func_single_ipi arch_send_call_function_single_ipi new_driver_sync",
            "function call",
            Some("new_driver_sync"),
        ),
        (
            "irq_work_queue_on wake_up_nohz_cpu add_timer_on __queue_delayed_work mce_cpu_online",
            "timer from another CPU",
            Some("mce_cpu_online"),
        ),
        ("try_to_wake_up entry_SYSCALL_64", "wake-up", None),
        ("x2apic_send_IPI try_to_wake_up", "wake-up", None),
        ("text_poke_bp_batch jump_label_update f", "static key", None),
    ] {
        let cause = causes.of(chain.split_whitespace());
        assert_eq!((cause.name, cause.by), (name, by), "{chain}");
    }
}

#[test]
fn timers_have_the_cause_of_their_function_or_of_the_work_they_queue() {
    let causes = Causes::built_in().unwrap();
    for (function, work, name, by) in [
        ("tick_nohz_handler", None, "tick", None),
        (
            "clocksource_watchdog.cold",
            None,
            "clocksource watchdog",
            None,
        ),
        (
            "delayed_work_timer_fn",
            Some("vmstat_update"),
            "vmstat",
            None,
        ),
        (
            "delayed_work_timer_fn",
            Some("new_work.part.0"),
            "timer",
            Some("new_work"),
        ),
        (
            "delayed_work_timer_fn",
            None,
            "timer",
            Some("delayed_work_timer_fn"),
        ),
        ("new_timer_fn", None, "timer", Some("new_timer_fn")),
    ] {
        let cause = causes.of_timer(function, work);
        assert_eq!((cause.name, cause.by), (name, by), "{function}");
    }
}

#[test]
fn what_a_compiler_adds_to_a_name_makes_no_difference() {
    let chain = [
        "text_poke_bp_batch.isra.0",
        "__jump_label_update.part.0.cold",
    ];
    assert_eq!(cause(&chain), ("static key".to_owned(), Deferrable::Yes));
    for (name, base) in [("a.cold", "a"), ("a", "a"), (".a", ".a"), ("", "")] {
        assert_eq!(base_name(name), base);
    }
}

#[test]
fn what_was_interrupted_is_not_the_cause_but_what_an_exception_came_of_may_be() {
    let timer = [
        "native_send_call_func_single_ipi",
        "sched_balance_trigger",
        "sched_tick",
        "asm_sysvec_apic_timer_interrupt",
        "text_poke_bp_batch",
        "jump_label_update",
    ];
    assert_eq!(cause(&timer), ("load balancing".to_owned(), Deferrable::No));
    let unknown = ["f", "asm_common_interrupt", "text_poke_bp_batch"];
    assert_eq!(cause(&unknown).0, "unknown");
    let fault = ["f", "asm_exc_page_fault", "text_poke_bp_batch"];
    assert_eq!(cause(&fault).0, "text patching");
}

#[test]
fn under_is_further_out_only() {
    let inside_out = ["jump_label_update", "text_poke_bp_batch"];
    assert_eq!(
        cause(&inside_out),
        ("text patching".to_owned(), Deferrable::Yes)
    );
}

#[test]
fn plumbing_and_entry_say_nothing_of_the_reason() {
    let causes = Causes::built_in().unwrap();
    for name in causes.plumbing.iter().chain(&causes.entry) {
        let (cause, _) = cause(&[name.as_str()]);
        // Scheduling, irq_work and calls have nothing further in.
        assert!(
            ["unknown", "reschedule", "irq_work", "function call"].contains(&cause.as_str()),
            "{name}: {cause}"
        );
    }
    assert!(
        causes.is_plumbing("__wrmsr")
            && causes.is_plumbing("x2apic_send_IPI")
            && !causes.is_plumbing("vfree")
    );
    assert!(causes.is_entry("do_syscall_64") && !causes.is_entry("vfree"));
}

#[test]
fn tables_that_contradict_themselves_are_refused() {
    let table = |rules: &str| {
        let text = format!("plumbing = []\nentry = []\ninterrupts = []\n{rules}");
        Causes::parse(&text).unwrap_err().to_string()
    };
    let rule = |name: &str, deferrable: &str, rest: &str| {
        format!("[[cause]]\nname = \"{name}\"\ndeferrable = \"{deferrable}\"\n{rest}\n")
    };
    let wrong = |what: &str| format!("the table of causes is wrong: {what}");
    assert_eq!(
        table(&rule("a", "yes", "at = []")),
        wrong("`a` has no function")
    );
    assert_eq!(
        table(&rule("a", "yes", "left = true\nat = [\"f\"]")),
        wrong("`a` has nothing under what may have been left")
    );
    assert_eq!(
        table(&rule("unknown", "yes", "at = [\"f\"]")),
        wrong("`unknown` is no name of a cause")
    );
    assert_eq!(
        table(&rule("a", "yes", "at = [\"f.isra.0\"]")),
        wrong("`a` names f.isra.0, which has a compiler's suffix")
    );
    let (yes, no) = (
        rule("a", "yes", "at = [\"f\"]"),
        rule("a", "no", "at = [\"g\"]"),
    );
    assert_eq!(
        table(&format!("{yes}{no}")),
        wrong("`a` is deferrable in one rule and not in another")
    );
    let other = rule("b", "no", "at = [\"f\"]\nunder = [\"g\"]");
    assert_eq!(
        table(&format!("{yes}{other}")),
        wrong("`b` is never reached, after `a`")
    );
    assert_eq!(
        table(&rule("a", "no", "at = [\"f\"]\nthrough = [\"g.cold\"]")),
        wrong("`a` names g.cold, which has a compiler's suffix")
    );
    let timer = |name: &str, at: &str| format!("[[timer]]\nname = \"{name}\"\nat = [{at}]\n");
    let timers = |timers: &[String]| {
        let cause = rule("a", "no", "at = [\"f\"]");
        table(&format!("{cause}{}", timers.concat()))
    };
    let last = timer("timer", "");
    let place = "has no function, and is not the last, or is the last and has one";
    for (wrong_ones, what) in [
        (vec![timer("t", "\"g\"")], format!("timer `t` {place}")),
        (
            vec![timer("t", ""), last.clone()],
            format!("timer `t` {place}"),
        ),
        (
            vec![timer("unknown", "\"g\""), last.clone()],
            "timer `unknown` is no name of a cause".to_owned(),
        ),
        (
            vec![timer("t", "\"g.cold\""), last.clone()],
            "timer `t` names g.cold, which has a compiler's suffix".to_owned(),
        ),
        (
            vec![timer("t", "\"g\""), timer("u", "\"g\""), last.clone()],
            "timer `u` names g, as one before it does".to_owned(),
        ),
    ] {
        assert_eq!(timers(&wrong_ones), wrong(&what));
    }
    assert_eq!(
        table(&rule("a", "perhaps", "at = [\"f\"]")),
        "the table of causes is damaged"
    );
}
