"""A sandbox for programs that a model wrote, with a verdict that they cannot forge.

    trainer ── guard ── tester ── keeper ── candidate

Who decides. The candidate's code runs in a process of its own and is never asked how it did. For programs that read
and write text, the expected output stays in the trainer's process, which compares. For functions, a second process runs
the tests as they are written, with stand-ins for the candidate's names; a call sends plain values through a pipe and
gets plain values back, rebuilt from exact builtin types. So whatever the candidate does to equality, `assert`,
builtins, frames or `sys.exit` happens in its own process, and its only way to pass is to give the right values. That
holds for any test code (HumanEval's loops over random inputs, `math.isclose`, setup code), which reading the asserts
apart would not. The candidate is forked off before the tests are read, so they are not in its memory either.

What holds it in, on Linux where the kernel allows: own user, process, network, IPC, host name and mount namespaces, of
the candidate within those of the tester; a root folder with read-only system folders, /tmp in memory and its own /proc;
no capabilities and no way to get any, no further user namespaces; limits on the time that a test takes, memory of each
process and of all together, processes, open files, file size and output. The end of the first process of a namespace is
the end of all others, which the guard waits for. Root's candidate is a user id of its own.

A filter of system calls refuses what namespaces leave open: memory that no process holds (memfd, System V, queues,
shared anonymous maps), keyrings, tracing, priorities and limits of other processes, new sessions.

Without namespaces ("limits", announced once) Landlock shows the program the system's folders, its own, and nothing
else, so that it can neither look into another process nor write elsewhere; the filter then also refuses sockets and
signals to anyone else. Root's programs run as users of their own besides. "auto" is refused where there is neither. Who
asks for "limits" by name gets what the kernel has: guard, tester and keeper are closed to tracing, and what they say to
each other goes through what nobody can open anew; but files that the user may read can be read, and that user's other
processes ended.

Limits to know. Arguments go by value, but for those that a test looks at after the call. The kernel is shared. What a
returned object without a plain form (a generator, an instance) says about being equal to a value, or holding one, is
not believed (`stand_ins`). Hard-coding an answer that the prompt shows is not seen: keep some tests out of the prompt.
Programs see the standard library only, with hash seed 0.
"""
