"""How a command ends, whatever ends it."""

from contract.commandline import run


def test_an_interrupt_before_the_arguments_are_read_is_one_too(capsys):
    def interrupted():
        raise KeyboardInterrupt

    assert run(interrupted, []) == 130
    assert capsys.readouterr() == ("", "")
