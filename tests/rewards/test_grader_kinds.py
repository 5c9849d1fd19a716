"""Like with like: each kind of answer, what equals it, and what only looks like it."""

import pytest

from rewards.accuracy.reward import accuracy_reward, extract_answer, gold_is_parseable, grade
from rewards.length import cosine_length

EQUAL = {
    "texts": [(r"\text{x > 3}", "x>3"), (r"\text{slope is -2}", "Slope is −2."), (r"\text{ellipse}", "an ellipse"),
              (r"\text{red, green}", "green, red"), ("New York", "new york"), ("no solution", r"\text{no solution}"),
              (r"\text{two-digit}", "two digit"), ("does not exist", "Does not exist."),
              ("no solution", r"\text{no solutions}"), (r"\emptyset", "no solution"),
              (r"\mathbb{R}", r"\text{all real numbers}")],
    "sets": [("x \\ne 3", r"(-\infty,3)\cup(3,\infty)"), (r"(-\infty,3)\cup(3,\infty)", r"x \neq 3"),
             (r"\mathbb{R}\setminus\{3\}", "x≠3"), (r"(-\infty,4]", r"\{x \mid x \le 4\}"),
             (r"(-\infty,4]", r"\{x \in \mathbb{R} : x \le 4\}"), ("(2,-1)", r"\begin{pmatrix}2\\-1\end{pmatrix}"),
             (r"\begin{pmatrix}2\\-1\end{pmatrix}", r"\langle 2,-1\rangle")],
    "times": [("4:17 p.m.", "4:17 PM"), ("05:00", "5:00"), ("4:30 pm", "16:30"), ("10:00 a.m.", "10 a.m."),
              ("10:30 a.m.", "10:30"), ("12:00 a.m.", "0:00"), ("noon", "12:00"), ("12:00 p.m.", "noon"),
              ("midnight", "0:00"), ("7:30 p.m.", "7:30 in the evening"), ("5", "5 o'clock"), ("17", "5 pm"),
              (r"8\!:\!34 \text{ p.m.}", "8:34 p.m.")],
    "ratios": [("3:4", "6:8"), ("1:2:3", "2:4:6"), ("3:4", r"3 \text{ to } 4"), ("3:4", "0.75"), (r"\frac34", "3:4"),
               (r"1:\sqrt{2}", r"\sqrt{2}:2"), ("S:T=7:32", "7:32")],
    "names": [("HHT", "HHT"), (r"\overline{AB}", "AB"), ("abc", "bca"), ("xy", "yx"), ("Ann", "ann")],
    "equations": [("5", "x=5"), ("5", "f(2) = 5"), ("5", "AB=5"), ("293", "m+n = 256+37 = 293"), ("x=5", "5"),
                  ("2x+4y=3", "y=3/4-x/2"), ("5", "10/2 = 5"), ("0.33", "1/3 = 0.33"), ("5", r"\text{Area} = 5"),
              ("1,2", "x_1=1, x_2=2"),
                  ("p=5,q=2;p=7,q=2", "(5,2),(7,2)")],
    "number words": [("5000000", "5 million"), ("1 million", "1000000"), ("0.05", "5 hundredths"), ("60", "5 dozen"),
                     ("120000", "12万"), ("5", "5 times"), ("0.75", "3 quarters"), ("12", "12千瓦"),
              ("5000000", "5 millones"), ("5000", r"\$5K"), ("5000", "$5K"),
                     ("30", "3 tens"), ("0.25", "5 twentieths"), ("120", "5!"), ("3", "3rd"),
              ("21", r"21^{\text{st}}")],
    "bases": [("22112_6", "22112_{6}"), ("1011_2", "1011"), ("34", "42_8"), ("137_9", r"137\text{ (base 9)}"),
              (r"\text{A5}_{11}", "A5"), ("101_2", "(101)_2")],
    "units": [(r"80\text{ cents}", "0.8 dollars"), (r"80\text{ cents}", r"\$0.80"), (r"5\text{ cm}", "50 mm"),
              (r"5\text{ cm}", "5"), ("5", "5 m"), (r"2\text{ hours}", "120 minutes"), (r"\$6", "6 dollars"),
              (r"60\text{ mph}", "60 miles per hour"), (r"10\pi\text{ m}", r"1000\pi\text{ cm}"),
              (r"5\text{ m}^2", "5 square meters"), (r"5.30\text{ dollars}", "5 dollars and 30 cents"),
              (r"2.5\text{ hours}", "2 hours 30 minutes"), (r"5\text{ apples}", "5 red apples"), ("18.90", "USD 18.90"),
              ("5 m/s", "18 km/h"), (r"120^\circ", r"\frac{2\pi}{3}"), (r"25^\circ C", "25"),
              ("3 \\times 10^8", r"3\times 10^8\ \frac{m}{s}"), ("28\\%", "0.28"), ("0.28",
              "28%"), (r"180^\circ", r"\pi\text{ radians}"), (r"\frac{\pi}{3}", r"60^\circ"), ("4t", "4t"),
              (r"5\text{ kV}", "5000 V"), (r"2\ \mu\text{F}", "2000 nF"), ("£7", "7 pounds"), (r"25^\circ C", "25 C"),
              ("12", "12 J/(mol K)"), ("12", "12 km/s/Mpc"),
              *[("12", f"12{unit}") for unit in ("元", " 米", " บาท", " кг", " kW", " pts", "個", " ₩", "㎡", " км²")]],
    "alternatives": [("3,-3", "x=3 or x=-3"), (r"(-\infty,-1)\cup(4,\infty)", r"x<-1 \text{ or } x>4"),
                     ("x<-1 or x>4", r"(-\infty,-1) \cup (4,\infty)"), ("-2<x<2", "|x|<2"), (r"\pm 3", "3 or -3"),
                     ("1,2,3", "1, 2, or 3"), (r"\{1,2\}", "1 or 2")],
    "degrees": [(r"\frac12", r"\sin 30^\circ"), (r"\cos 58^\circ", r"\sin 32^\circ"), (r"2-\sqrt3", r"\tan 15°"),
                (r"6\operatorname{cis} 30^\circ", r"3\sqrt3+3i"), ("45", r"45^\circ"),
              (r"\frac12", r"\sin 30\text{ degrees}"), (r"\frac12", r"\mathrm{sin}\,30^\circ"),
                (r"\arctan 2", r"\text{arctan}(2)"), (r"2\text{cis}\frac{\pi}{3}", r"1+\sqrt3 i")],
    "decoration": [("42", rf"\{mark}{{42}}") for mark in ("textcolor{red}", "color{red}", "large", "boldsymbol", "bf",
                   "underline", "texttt", "mathsf", "emph", "pmb")] + [("1000", r"\mathrm{1,000}"), ("0.125", "⅛"),
                   ("42", "**42**"), ("42", r"{\color{blue} 42}"), ("x+1", r"\bf{x+1}"), ("42", r"\therefore 42"),
              ("42", "*42*"), ("42", "`42`"), ("42", "‘42’"),
                   ("42", r"42 \checkmark"), ("42", r"\bigl(42\bigr)"), ("42", r"\begin{aligned}42\end{aligned}"),
                   ("42", r"\framebox{42}"), ("42", r"\hbox{42}"), ("42", r"\style{color:red}{42}"),
                   ("42", r"\bbox[yellow]{42}")],
    "conditions": [("2x", r"2x \text{ for all real } x"), ("3k", r"3k, k\in\mathbb{Z}"),
              ("n^2", r"n^2 \quad (n\ge1)"), ("2^n", r"2^n, \text{ where } n \text{ is the size}")],
    "plain ASCII": [(r"2\pi", "2*pi"), ("x^2", "x**2"), ("e^{2x}", "exp(2x)"), (r"\ln 2", "ln 2"), (r"\sqrt2",
              "sqrt(2)"),
                    (r"\frac{\pi}{8}", "pi/8"), (r"\arcsin(10/13)", "np.arcsin(10/13)"), (r"\frac{\pi^2}{6}", "pi^2/6"),
                    ("-\\infty", "-oo"), (r"\sqrt[3]{2}", "cbrt(2)"), (r"\sqrt[3]{2}", "∛2"),
              (r"\frac{\alpha}{2}", "alpha/2"),
                    ("10", r"{5 \choose 2}"), ("|x-1|", "abs(x-1)"), (r"\lfloor x\rfloor", "floor(x)")],
    "readable": [(r"\frac{-1\pm\sqrt5}{2}", r"-\frac12\pm\frac{\sqrt5}{2}"),
              (r"\langle 1,2,3\rangle", r"\langle 1,2,3\rangle"),
                 (r"\begin{cases}x&x>0\\-x&x\le0\end{cases}", r"\begin{cases} x & x>0 \\ -x & x\le 0 \end{cases}"),
                 (r"\lg 5", r"\log_{10} 5"), (r"p\to q", r"p \to q"), (r"\sqrt{1/n}", r"\frac{1}{\sqrt{n}}")],
    "choices": [("B", "B. 3 m/s"), ("B", r"\text{Option B}"), ("C", r"\boldsymbol{C}"), ("C", "**C**"), ("B",
              "Option B"), ("B. 3 m/s", "B")],
}  # fmt: skip
DIFFERENT = {
    "texts": [(r"\text{x > 3}", "x < 3"), (r"\text{slope is -2}", "slope is 2"), (r"\text{2.5 and 3}", "25 and 3"),
              (r"\text{June 1, 2005}", "June 12, 005"), (r"\text{a+b}", "a-b"), (r"\text{1/2 of it}", "12 of it")],
    "times": [("8:34 p.m.", "4:17 p.m."), ("2:30", "1:15"), ("2:30", r"\frac{1}{15}"), ("7:45 PM", "7:45 AM"),
              ("10:00 a.m.", "10:00 p.m."), ("4:30 pm", "4:30 am"), ("noon", "midnight"), ("12:00 a.m.", "noon"),
              ("5", "6 pm")],
    "ratios": [("1:2:3", "1:3:2"), ("5:3", "5:3:1"), ("3:4", "4:3"), ("5:3:1", "5:3"), (r"1:\sqrt2", r"\sqrt2:1")],
    "names": [("HHT", "THH"), ("XI", "IX"), ("no", "on"), ("cat", "act"), ("AAS", "ASA"), ("AB", "BA"), ("two", "tow")],
    "equations": [*[("5", text) for text in ("2x=5", "x/2=5", "-x=5", "x-1=5", r"\sqrt{x}=5", "1/x=5", "a+b=5",
              "x^2=5", "7 = 5", "5 = 7", r"5 \approx 7", r"5 \sim 7")],
                  ("0", "x^2-5x+6=0"), ("2x=5", "5"), ("5", "x > 5"), ("5", r"x \ne 5")],
    "number words": [("5", f"5 {word}") for word in ("millions", "million", "hundredths", "lakh", "factorial",
              "thousand",
                     "crore", "squared", "dozen")] + [("4", "4 milliards"), ("4", "4 mln"), ("4", "4 тыс"),
              ("4", "4 twelfths"), ("4", "$4K"), ("5", "5!"),
                     ("3", "3 quarters"), ("12", "12万"), ("12", "12千")],
    "bases": [("22112_6", "22112_7"), ("42", "42_8"), ("1011_2", "1101_2"), ("22112_6", "22121_6"), ("1011_2",
              "11_{10}")],
    "units": [(r"80\text{ cents}", "80 dollars"), (r"5\text{ cm}", "5 m"), (r"2\text{ hours}", "2 minutes"),
              ("0.28", "0.28%"),
              (r"5\text{ cm}", r"5\text{ cm}^2"), (r"60\text{ mph}", r"60\text{ km/h}"), (r"\$80", "80 cents"),
              (r"\$5", "€5"),
              (r"10\pi\text{ m}", r"10\pi\text{ cm}"), ("5", "5 dollars and 30 cents"), (r"5\text{ apples}", "5 pears"),
              ("5 m/s", "5 m s"), ("5", "5+"), (r"120^\circ", r"\frac{\pi}{3}"), (r"5\text{ apples}", "5 cm"),
              (r"12\text{ 米}", "12 厘米"), (r"25^\circ C", r"25^\circ F"), ("20%", "20 dollars"), (r"\$20", "20%"),
              ("4t", "4"), ("5", "5t"),
              ("£5", "5 pence"), ("8 Mb", "8 MB"), (r"5\text{ mA}", "5 A")],
    "alternatives": [("2,3", "2 or 4"), ("5", "5 or 7"), (r"(-\infty,-1)\cup(4,\infty)", "x<-1 or x>5"), ("-2<x<2",
              "|x|>2"),
                     (r"\pm3", "3"), (r"(-\infty,-1)\cup(4,\infty)", "x<-1 and x>4")],
    "degrees": [(r"\cos 58^\circ", r"\cos 58"), (r"\sin 30", r"\sin 30^\circ"), (r"\frac{\pi}{2}", "90")],
    "conditions": [("5", "5 if n is even, 7 if n is odd"), ("x", "x for x>0, -x otherwise"), ("5", "5 plus a bit")],
    "sets": [(r"x \ne 3", r"(-\infty,2)\cup(2,\infty)"), (r"x \ne 3", "3"), ("3", r"x \ne 3"), (r"x \ne 3", r"x \ne 4"),
             (r"(-\infty,4]", r"\{x \mid x < 4\}"), ("(2,-1)", r"\begin{pmatrix}-1\\2\end{pmatrix}")],
    "huge": [("5", f"x = {'9' * 399}/1 = 5"), ("5", rf"{'9' * 399} \approx 5"), ("5", r"10 \times 10^{999} = 5")],
    "what a parser drops": [("D", "D'"), ("x", "x'"), ("x''", "x'"), ("5", "5(((("), ("5", "5[[")],
    "plain ASCII": [(r"\frac{\pi}{3}", "pi^2/6"), ("|x-1|", "x-1")],
    "letters": [("R-r", "0"), (r"\pi R^2-\pi r^2", "0"), ("A", r"x\in A"), (r"R+r", "2r")],
    "readable": [(r"\frac{-1\pm\sqrt5}{2}", r"\frac{1\pm\sqrt5}{2}"), (r"p\to q", r"q\to p"),
                 (r"\begin{cases}x&x>0\\-x&x\le0\end{cases}", "x")],
    "numbers": [(r"e^{\pi\sqrt{163}}", "262537412640768744"), ("1", "1+10^{-9}"), ("2 1/4", "21/4"), ("0", "10^{-80}"),
                ("1", "1+__import__('os').system('true')")],
    "choices": [("A", "A dog"), ("C", "C and D"), ("A", "A; B"), ("A", "A / B"), ("A - B", "A - C"),
              ("A (x+1)", "A (x+2)")],
}  # fmt: skip


@pytest.mark.parametrize("kind", EQUAL)
def test_equal(kind):
    assert [(gold, text) for gold, text in EQUAL[kind] if grade(rf"so \boxed{{{text}}}", gold) != 1.0] == []


@pytest.mark.parametrize("kind", DIFFERENT)
def test_different(kind):
    assert [(gold, text) for gold, text in DIFFERENT[kind] if grade(rf"so \boxed{{{text}}}", gold) != 0.0] == []


@pytest.mark.parametrize("gold", ["New York", "no solution", "10:00 a.m.", r"p\to q", r"\langle 1,2\rangle",
"np.arcsin(1/3)",
                                  r"\frac{-1\pm\sqrt5}{2}", r"\hbar\omega(v+1/2)",
                                  "E_{1},E_{2}", r"m_{\max }=n^2"])  # fmt: skip
def test_golds_that_can_be_read(gold):
    assert gold_is_parseable(gold)
    assert grade(rf"\boxed{{{gold}}}", gold) == 1.0


@pytest.mark.parametrize("said", ["more than 5", "less than 5", "minus 5", "twice 5", "half of 5",
"the square root of 5",
                                  "in chapter 5", "given by equation 5", "the sum of the first 5 primes", "5 or 7",
                                  "at least 5", "more than $5$", "never 5", "5 more than x", "1 more than 5",
                                  "5+__import__('os')", "the 5th prime", "somewhere near 5", "5 more",
              "anything except 5"])  # fmt: skip
def test_a_number_in_a_sentence_is_no_answer(said):
    assert grade(f"The answer is {said}.", "5") == 0.0


@pytest.mark.parametrize(("text", "answer"), [
    ("The answer is 42, and this result is unique.", "42"), ("The answer is 42. I hope this answer is helpful!", "42"),
    ("The answer is B. The answer is not A.", "B"), ("Answer: B\nNote: the result is 3 m/s.", "B"),
    ("Answer: B\nA: too slow.", "B"), ("The correct option is B.", "B"), ("Therefore, (B) is correct.",
    "(B) is correct"),
    ("B", "B"), ("B. 3 m/s", "B. 3 m/s"), ("So it is clear.\n\nB", "B"), ("The answer is 42 and not 41.", "42"),
    ("Answer: D rather than B", "D"), (r"Use the \boxed format. The final answer is 42.", "42"),
    ("## Final Answer\n\n42", "42"), ("The answer is Monday.", "Monday"), ("They say the answer is 5 apples.",
    "5 apples"),
    ("The answer is that she has 5 apples.", "5 apples"), ("答案是 $12$ 元。", "12 元"), ("La risposta è 42.", "42"),
    ("The answer is 5. The answer is not 5.", None), ("The answer should be 5.", "5"), ("The answer equals $5$.", "5"),
    ("Answer: 5\n\nExplanation: the answer is found by adding.", "5"), ("The answer is 10/2 = 5 apples.", "5 apples"),
    ("The answer can't be 5.", None), ("The answer should not be 5.", None), ("The answer is 7 (since 3+4=7).", "7"),
    ("I would not choose B.", None), ("不选B", None), ("B is wrong.", None), ("B is incorrect.", None),
    ("_Answer_: 42", "42"), ("Đáp án là 5.", "5"), ("故选B。", "B"), ("I would choose option B.", "B"),
    ("The correct statement is B.", "B"), ("Reasoning here.\n\nB. 3 m/s", "B. 3 m/s"), ("\nA. 2\nB. 3 m/s", None),
    ("#### 5\n#### ", None), ("<answer>5</answer> no, <answer>", None),
    ("<answer>5</answer> as asked in <answer> tags", "5"), ("The answer must be a whole number. Answer: 5", "5"),
])  # fmt: skip
def test_phrases(text, answer):
    assert extract_answer(text) == answer


@pytest.mark.parametrize(("text", "answer"), [
    (r"first \boxed{5}, no: \boxed{", None), (r"\boxed{5} \boxed{}", None),
    (r"The answer is \boxed{5}. Check: \boxed{\frac{1}{", None),
    (r"put it within \boxed{}. The answer is 41", "41"), (r"\boxed{1}; \boxed{5}", "1, 5"),
    (r"\boxed{1} / \boxed{5}", "1 or 5"),
    (r"\boxed{1} & \boxed{5}", "1, 5"), (r"\boxed{1} | \boxed{5}", "1 or 5"), (r"\boxed{x\in A} Answer: B", r"x\in A"),
    (r"Answer in \boxed{your answer}. The answer is 42.", "42"),
])  # fmt: skip
def test_a_box_that_is_empty_or_cut_off_takes_the_answer_back(text, answer):
    assert extract_answer(text) == answer


def test_a_thought_that_never_closes_has_no_answer():
    for text in (r"<think>\boxed{5}", r"<think>a</think><think>\boxed{5}", "<think>The answer is 5"):
        assert extract_answer(text, anywhere=True) is None
    cut = r"so \boxed{5}"
    assert accuracy_reward([cut, cut, cut], ["5"] * 3, prefill=["<think>\n", "", "<think></think>"]) == [0.0, 1.0, 1.0]
    assert accuracy_reward([cut, r"a</think>\boxed{5}"], ["5"] * 2, prompts=["2+3? <think>\n"] * 2) == [0.0, 1.0]
    assert cosine_length([cut], ["5"], [[1] * 50], prefill=["<think>"], max_length=100) == [-0.75]
