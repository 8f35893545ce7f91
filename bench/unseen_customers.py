#!/usr/bin/env python3
"""Customers of households and firms recorded several times, with known truth.

For bench/match_accuracy: kinds of damage and of near misses that no weight was
chosen on record by record.  Persons live in households: couples, fathers and
sons, also of one name, siblings, twins, flat mates.  They are written down again
with nicknames, slips, other first names, after a move or a marriage.  Firms have
branches, sisters, namesakes and neighbours, and change their names.

Same seed, same rows.  CSV on standard output; column "cluster_id" is the truth.
"""
import argparse
import csv
import datetime
import os
import random
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "scripts"))
from generate_customers import TRADITIONAL, read  # noqa: E402

MEN = """James John Robert Michael William David Richard Thomas Charles Daniel Matthew Anthony Mark Paul Steven Andrew
George Kenneth Joshua Kevin Brian Edward Ronald Timothy Jason Jeffrey Ryan Jacob Gary Nicholas Eric Jonathan Stephen Larry
Justin Scott Brandon Benjamin Samuel Frank Gregory Raymond Patrick Alexander Jack Dennis Jerry Martin Peter Harold Douglas
Henry Carl Arthur Roger Philip Albert Walter Christian Friedrich Johannes Ulrich Stefan Karl Luis Mario Bernd""".split()
WOMEN = """Mary Patricia Jennifer Linda Elizabeth Barbara Susan Jessica Sarah Karen Lisa Nancy Sandra Margaret Ashley Kimberly
Emily Donna Michelle Carol Amanda Melissa Deborah Stephanie Rebecca Sharon Laura Cynthia Dorothy Amy Kathleen Angela Shirley
Emma Brenda Pamela Nicole Anna Samantha Katherine Christine Helen Debra Rachel Carolyn Janet Maria Olivia Heather Hannah
Antonia Victoria Kelly Julia Martha Daniela Christina Paula Ursula Gabriele Katharina Sabine Andrea Carla Marta Johanna""".split()
NICKNAMES = {"James": "Jim Jimmy Jamie", "John": "Jack Johnny", "Robert": "Bob Rob Bobby", "Michael": "Mike Mick", "William": "Bill Will Billy",
             "David": "Dave", "Richard": "Dick Rick", "Thomas": "Tom Tommy", "Charles": "Charlie Chuck", "Daniel": "Dan Danny", "Matthew": "Matt",
             "Anthony": "Tony", "Steven": "Steve", "Andrew": "Andy Drew", "Kenneth": "Ken", "Edward": "Ed Ted Eddie", "Ronald": "Ron Ronnie",
             "Timothy": "Tim", "Nicholas": "Nick", "Jonathan": "Jon", "Stephen": "Steve", "Benjamin": "Ben", "Samuel": "Sam", "Gregory": "Greg",
             "Raymond": "Ray", "Patrick": "Pat Paddy", "Alexander": "Alex Sandy", "Harold": "Harry Hal", "Douglas": "Doug", "Henry": "Harry Hank",
             "Arthur": "Art", "Philip": "Phil", "Albert": "Bert Al", "Walter": "Walt Wally", "Friedrich": "Fritz", "Johannes": "Hans", "Ulrich": "Uli",
             "Patricia": "Pat Trish Patty", "Jennifer": "Jenny Jen", "Elizabeth": "Liz Beth Betty Lisa", "Barbara": "Barb Babs", "Susan": "Sue",
             "Jessica": "Jess", "Margaret": "Maggie Peggy Meg", "Kimberly": "Kim", "Deborah": "Debbie Deb", "Stephanie": "Steffi", "Rebecca": "Becky",
             "Cynthia": "Cindy", "Dorothy": "Dot Dolly", "Kathleen": "Kathy Kate", "Pamela": "Pam", "Samantha": "Sam", "Katherine": "Kate Kathy Katie",
             "Christine": "Chris", "Victoria": "Vicky", "Antonia": "Toni", "Katharina": "Kathi", "Gabriele": "Gabi", "Johanna": "Hanna"}
FAMILIES = """Smith Johnson Williams Brown Jones Miller Davis Wilson Anderson Taylor Thomas Moore Jackson Martin Lee Thompson White Harris
Clark Lewis Robinson Walker Young Allen King Wright Scott Hill Green Adams Nelson Baker Hall Campbell Mitchell Carter Roberts Phillips
Evans Turner Parker Edwards Collins Stewart Morris Murphy Cook Rogers Morgan Cooper Peterson Reed Bailey Kelly Howard Ward Cox
Richardson Watson Brooks Wood James Bennett Gray Hughes Price Myers Long Foster Sanders Ross Powell Sullivan Russell Fisher Henderson
Müller Schmidt Schneider Weber Becker Hoffmann Schulz Koch Bauer Richter Wolf Schröder Neumann Schwarz Zimmermann Krüger Hartmann
Dubois Lefebvre Moreau Girard Lambert Rossi Ferrari Bianchi Romano García Fernández López Sánchez Novák Kowalski Nowak Jensen Hansen""".split()
FAMILIES += [a + b for a in "Ash Brad Cole Dar Edge Fair Gar Hart Ken Lang Mar Nor Old Pres Rad Sher Thorn Wake Whit Wood".split()
             for b in "bury by combe field ford ham land ley man more ton wall well wick worth".split()]
STREETS = """High Street,Station Road,Church Lane,Park Avenue,Victoria Road,Green Lane,Mill Road,London Road,King Street,Queens Avenue,
Oak Drive,Maple Street,Cedar Close,Elm Grove,Chestnut Way,Bridge Street,Market Square,Garden Terrace,Meadow View,Orchard Road""".replace("\n", "").split(",")
STREETS += [a + b for a in "Alder Beech Birch Castle College Cross Dove Farm Forest Fox Hazel Hill Ivy Lake Manor North School Spring Tower West".split()
            for b in " Street, Road, Lane, Close, Drive, Gardens".split(",")]
CITIES = [("Ashford", "TN23"), ("Bedford", "MK40"), ("Carlisle", "CA1"), ("Dover", "CT16"), ("Exeter", "EX1"), ("Falmouth", "TR11"), ("Gloucester", "GL1"),
          ("Hereford", "HR1"), ("Ipswich", "IP1"), ("Kendal", "LA9"), ("Lincoln", "LN1"), ("Maidstone", "ME14"), ("Norwich", "NR1"), ("Oxford", "OX1")]
MEN_CN = "伟强军勇杰涛明超刚平辉鹏华飞鑫波斌宇浩凯健俊帆志国文海建林峰龙胜德东良光永庆新志成义友全安福生荣"
WOMEN_CN = "芳娜敏静丽艳娟霞秀玲燕红梅丹萍莉洁雪琳倩颖婷慧莹玉英华兰凤琴云莲真环荣爱妹香月媛瑞凡佳嘉琼桂娣叶璧"
FAMILIES_CN = "王李张刘陈杨赵黄周吴徐孙胡朱高林何郭马罗梁宋郑谢韩唐冯于董萧程曹袁邓许傅沈曾彭吕苏卢蒋蔡贾丁魏薛叶阎余潘杜戴夏钟汪田任姜范方石姚谭廖邹熊金陆郝孔白崔康毛邱秦江史顾侯邵孟龙万段"
ALIKE_CN = ["伟玮炜纬维", "军君钧均", "明铭鸣名", "辉晖慧", "华桦骅", "志智致", "建健剑", "国帼", "文雯纹", "宇雨羽", "浩皓昊", "杰洁捷", "丽莉利", "静婧靖", "玲铃灵琳", "芳方", "敏闽", "娜那", "燕艳雁", "霞侠"]
STREETS_CN = "人民路 中山路 解放路 建设路 和平街 新华路 文化路 友谊路 长江路 滨河路 学府街 光明巷 幸福里 朝阳路 青年路".split()
CITIES_CN = [("杭州", "310000"), ("南京", "210000"), ("成都", "610000"), ("武汉", "430000"), ("西安", "710000"), ("沈阳", "110000"), ("济南", "250000"), ("长沙", "410000"), ("昆明", "650000"), ("合肥", "230000")]
SHORTER = {"international": "Intl", "corporation": "Corp", "incorporated": "Inc", "limited": "Ltd", "company": "Co", "manufacturing": "Mfg", "services": "Svcs", "technologies": "Tech",
           "technology": "Tech", "associates": "Assoc", "brothers": "Bros", "association": "Assn", "department": "Dept", "management": "Mgmt", "engineering": "Eng", "and": "&", "&": "and"}
FORMS = "Inc,Inc.,LLC,Ltd,Ltd.,Limited,GmbH,AG,S.A.,B.V.,Pty Ltd,Corp,Corp.,Corporation,LLP,Co.".split(",")
TRADES = "Plumbing,Foods,Logistics,Consulting,Dental,Printing,Textiles,Software,Properties,Energy,Motors,Travel".split(",")
TRADES_CN = "商贸 餐饮 物流 建材 科技 广告 物业 纺织 能源 旅游".split()
FORMS_CN = ("有限责任公司", "股份有限公司", "有限公司", "厂", "中心")
PERSON = ["given_name", "family_name", "full_name", "birth_date", "phone", "email", "street", "city", "postcode"]
FIRM = ["name", "phone", "email", "website", "street", "city", "postcode", "uscc"]


def common(rng, values):
    """One of them, the first ones more often."""
    return rng.choices(values, [1 / (i + 20) for i in range(len(values))])[0]


def slip(rng, text):
    """A letter lost, doubled, changed, or swapped with the next."""
    if len(text) < 3:
        return text
    at = rng.randrange(1, len(text) - 1)
    way = rng.choice("lost doubled changed swapped".split())
    middle = {"lost": "", "doubled": text[at] * 2, "changed": rng.choice("aeiounrstlm"), "swapped": text[at + 1] + text[at]}[way]
    return text[:at] + middle + text[at + (2 if way == "swapped" else 1):]


def wrong_digit(rng, text):
    places = [i for i, c in enumerate(text) if c.isdigit()]
    at = rng.choice(places)
    return text[:at] + rng.choice("0123456789".replace(text[at], "")) + text[at + 1:]


class Latin:
    cities = CITIES
    in_one_field = 0.3

    def __init__(self):
        self.mailboxes = set()

    def given(self, rng, man, _generation):
        return common(rng, MEN if man else WOMEN)

    def family(self, rng):
        return common(rng, FAMILIES)

    def generation(self, rng):
        return None

    def house(self, rng):
        city, code = rng.choice(CITIES)
        return {"street": "%d %s" % (rng.randrange(1, 180), rng.choice(STREETS)), "city": city, "postcode": "%s %d%s%s" % (code, rng.randrange(1, 9), rng.choice("ABDEF"), rng.choice("GHJLN"))}

    def line(self, rng):
        return "01%03d %06d" % (rng.randrange(200, 999), rng.randrange(10**6))

    def mobile(self, rng):
        return "07%03d %06d" % (rng.randrange(300, 999), rng.randrange(10**6))

    def mailbox(self, rng, given, family):
        plain = "".join(c for c in (given + "." + family).lower() if c.isascii() and (c.isalpha() or c == "."))
        while True:
            box = "%s%s@%s" % (rng.choice((plain, plain[0] + plain.split(".")[-1], plain.replace(".", ""))), rng.choice(("", "", str(rng.randrange(1, 99)))),
                               rng.choice(("gmail.com", "outlook.com", "yahoo.co.uk", "btinternet.com")))
            if box not in self.mailboxes:
                self.mailboxes.add(box)
                return box

    def write(self, rng, row, man):
        """How a clerk writes the name down: the same as it is, most of the time."""
        given = row["given_name"]
        way = rng.random()
        if way < 0.16 and given in NICKNAMES:
            row["given_name"] = rng.choice(NICKNAMES[given].split())
        elif way < 0.20:
            row["given_name"] = given[0] + rng.choice(("", "."))
        elif way < 0.30:
            row["given_name"] = slip(rng, given)
        elif way < 0.35:
            row["given_name"] = "%s %s" % (given, self.given(rng, man, None))
        elif way < 0.37:
            row["swapped"] = True
        way = rng.random()
        if way < 0.10:
            row["family_name"] = slip(rng, row["family_name"])
        elif way < 0.13 and not man:
            row["family_name"] = self.family(rng)
        elif way < 0.16:
            row["family_name"] = row["family_name"].upper()
        elif way < 0.18:
            row["family_name"] = "%s-%s" % (row["family_name"], self.family(rng))
        if rng.random() < 0.2:
            row["street"] = row["street"].replace("Street", "St").replace("Road", "Rd").replace("Avenue", "Ave").replace("Lane", "Ln")

    def full_name(self, rng, given, family):
        return rng.choice(("%s %s" % (given, family), "%s, %s" % (family, given)))

    def print(self, rng, row):
        given, family = row["given_name"], row["family_name"]
        swapped = row.pop("swapped", False)
        if rng.random() < self.in_one_field:
            row.update(given_name="", family_name="", full_name=self.full_name(rng, given, family))
        elif swapped:
            row.update(given_name=family, family_name=given)


class Chinese(Latin):
    cities = CITIES_CN
    in_one_field = 0.7

    def generation(self, rng):
        return rng.choice("建志文国永德海春晓佳子")

    def given(self, rng, man, generation):
        last = common(rng, MEN_CN if man else WOMEN_CN)
        if generation is not None and rng.random() < 0.6:
            return generation + last
        return last if rng.random() < 0.25 else common(rng, MEN_CN if man else WOMEN_CN) + last

    def family(self, rng):
        return common(rng, FAMILIES_CN)

    def house(self, rng):
        city, code = rng.choice(CITIES_CN)
        return {"street": "%s%d号%d单元%d0%d室" % (rng.choice(STREETS_CN), rng.randrange(1, 300), rng.randrange(1, 5), rng.randrange(1, 18), rng.randrange(1, 5)),
                "city": city, "postcode": code[:3] + "%03d" % rng.randrange(20)}

    def line(self, rng):
        return "0%d-%08d" % (rng.choice((571, 25, 28, 27, 29)), rng.randrange(20000000, 89999999))

    def mobile(self, rng):
        return "1%d%08d" % (rng.choice((35, 36, 38, 39, 50, 58, 86, 88)), rng.randrange(10**8))

    def mailbox(self, rng, given, family):
        return "%d@qq.com" % rng.randrange(10**7, 10**9)

    def write(self, rng, row, man):
        way = rng.random()
        given = row["given_name"]
        if way < 0.14:
            places = [(i, group) for i, c in enumerate(given) for group in ALIKE_CN if c in group]
            if places:
                at, group = rng.choice(places)
                row["given_name"] = given[:at] + rng.choice(group.replace(given[at], "")) + given[at + 1:]
        elif way < 0.22:
            row["given_name"], row["family_name"] = given.translate(TRADITIONAL), row["family_name"].translate(TRADITIONAL)
        elif way < 0.24 and len(given) == 2:
            row["given_name"] = given[::-1]
        elif way < 0.26:
            row["given_name"] = row["given_name"] + rng.choice(("先生" if man else "女士", "总", "老师"))
        elif way < 0.28:
            row["swapped"] = True
        elif way < 0.29 and len(given) == 2:
            row["given_name"] = given[0] + common(rng, MEN_CN + WOMEN_CN)
        if rng.random() < 0.2:
            row["street"] = row["street"].replace("单元", "-").replace("号", "-").replace("室", "")

    def full_name(self, rng, given, family):
        return family + given


def birth_date(rng, year):
    return str(datetime.date(year, 1, 1) + datetime.timedelta(rng.randrange(365)))


def household(rng, world):
    """Members as (man, given name, family name, birth date), and how many of them go by father's name."""
    family, year, mark = world.family(rng), rng.randrange(1935, 1985), world.generation(rng)
    kind = rng.choices("single couple family parent twins name flat siblings".split(), (38, 20, 16, 8, 5, 4, 4, 5))[0]
    chinese = isinstance(world, Chinese)

    taken = set()

    def member(man, born, surname=family, generation=None):
        given = world.given(rng, man, generation)
        while given in taken:
            given = world.given(rng, man, generation)
        taken.add(given)
        return [man, given, surname, birth_date(rng, born)]
    man = rng.random() < 0.5
    adult = member(man, year)
    wife = member(not man, year + rng.randrange(-6, 7), world.family(rng) if chinese or rng.random() < 0.15 else family)
    child = year + rng.randrange(20, 36)
    if kind == "single":
        return [adult]
    if kind == "couple":
        return [adult, wife]
    if kind == "family":
        return [adult, wife] + [member(rng.random() < 0.5, child + 3 * i, generation=mark) for i in range(rng.choice((1, 1, 2, 3)))]
    if kind == "parent":
        return [adult, member(rng.random() < 0.7, child)]
    if kind == "siblings":
        return [member(rng.random() < 0.5, year + 2 * i, generation=mark) for i in range(rng.choice((2, 2, 3)))]
    if kind == "flat":
        return [member(rng.random() < 0.5, year + rng.randrange(8), world.family(rng)) for _ in range(rng.choice((2, 3)))]
    if kind == "twins":
        twins = [member(rng.random() < 0.5, year, generation=mark) for _ in range(2)]
        twins[1][3] = twins[0][3]
        return twins + ([wife] if rng.random() < 0.3 else [])
    son = member(True, child)
    father = member(True, year)
    if not chinese:
        son[1] = father[1]  # named after him
        if rng.random() < 0.6:
            son.append("Jr")
            father.append(rng.choice(("Sr", None)))
    return [father, son]


def again(rng, world, row, man, mobile):
    """The same person written down another time."""
    row = dict(row)
    world.write(rng, row, man)
    way = rng.random()
    if way < 0.15:
        row.update(world.house(rng))
        if rng.random() < 0.6:
            row["phone"] = mobile if rng.random() < 0.5 else world.line(rng)
    elif way < 0.22:
        row["street"] = slip(rng, row["street"])
    elif way < 0.26:
        row["street"] = ""
    if row["birth_date"]:
        way = rng.random()
        if way < 0.06:
            row["birth_date"] = row["birth_date"][:8] + "%02d" % rng.randrange(1, 29)
        elif way < 0.10 and int(row["birth_date"][8:]) <= 12:
            row["birth_date"] = "%s-%s-%s" % (row["birth_date"][:4], row["birth_date"][8:], row["birth_date"][5:7])
        elif way < 0.13:
            row["birth_date"] = "%d%s" % (int(row["birth_date"][:4]) + rng.choice((-10, -1, 1, 10)), row["birth_date"][4:8] + "%02d" % min(28, int(row["birth_date"][8:])))
        elif way < 0.14:
            row["birth_date"] = birth_date(rng, rng.randrange(1935, 2005))
        elif way < 0.35:
            row["birth_date"] = ""
    way = rng.random()
    if way < 0.2:
        row["phone"] = mobile
    elif way < 0.25 and row["phone"]:
        row["phone"] = wrong_digit(rng, row["phone"])
    elif way < 0.5:
        row["phone"] = ""
    way = rng.random()
    if way < 0.4:
        row["email"] = ""
    elif way < 0.5:
        row["email"] = world.mailbox(rng, row["given_name"] or "x", row["family_name"] or "x")
    return row


def persons(rng, world, households):
    cluster = 0
    for _ in range(households):
        house, line = world.house(rng), world.line(rng) if rng.random() < 0.7 else ""
        shared = rng.random() < 0.15
        box = None
        for man, given, family, born, *suffix in household(rng, world):
            cluster += 1
            mobile = world.mobile(rng)
            row = dict(house, given_name=given, family_name=family, birth_date=born if rng.random() < 0.75 else "", phone=line if line and rng.random() < 0.6 else mobile if rng.random() < 0.7 else "")
            own = world.mailbox(rng, given, family)
            box = box or own
            row["email"] = "" if rng.random() < 0.35 else box if shared else own
            rows = [row] + [again(rng, world, row, man, mobile) for _ in range(rng.choices((0, 1, 2), (60, 30, 10))[0])]
            for r in rows:
                if suffix and suffix[0] and rng.random() < 0.6:
                    r["family_name"] = "%s %s" % (r["family_name"], rng.choice((suffix[0], suffix[0] + ".")))
                world.print(rng, r)
                yield dict(r, cluster_id=cluster)


def bare(name):
    """Without its legal form."""
    words = name.split()
    while len(words) > 1 and words[-1].strip(",") in FORMS:
        words.pop()
    return " ".join(words).rstrip(",")


def bare_cn(name):
    for form in FORMS_CN[:3]:
        if name.endswith(form):
            return name[:-len(form)]
    return name


def firm_again(rng, world, row, chinese):
    """The same firm written down another time."""
    row, name = dict(row), row["name"]
    way = rng.random()
    if chinese:
        if way < 0.15:
            name = bare_cn(name)
        elif way < 0.30:
            name = bare_cn(name).replace(row["city"], "", 1) or name
        elif way < 0.40:
            name = bare_cn(name) + rng.choice(FORMS_CN[:3])
        elif way < 0.50:
            name = name.translate(TRADITIONAL)
        elif way < 0.62 and len(name) > 6:
            at = rng.randrange(2, 5)
            name = name[:at] + rng.choice((name[at + 1:], name[at + 1] + name[at] + name[at + 2:]))
        elif way < 0.68:
            name = "%s(%s)%s" % (bare_cn(name).replace(row["city"], "", 1), row["city"], "有限公司")
        elif way < 0.71:
            name = bare_cn(name)[:2] + rng.choice(TRADES_CN) + "有限公司"  # renamed
    else:
        words = name.split()
        if way < 0.2:
            name = " ".join(SHORTER.get(w.lower().strip(".,"), w) for w in words)
        elif way < 0.35:
            name = bare(name)
        elif way < 0.45:
            name = "%s %s" % (bare(name), rng.choice(FORMS))
        elif way < 0.60:
            name = slip(rng, name)
        elif way < 0.66:
            name = rng.choice(("The %s", "%s (Head Office)", "%s, " + row["city"])) % bare(name)
        elif way < 0.72 and len(bare(name).split()) > 1:
            name = " ".join(bare(name).split()[:-1])
        elif way < 0.75 and len(bare(name).split()) > 2:
            name = "".join(w[0] for w in bare(name).split())
        elif way < 0.77:
            name = "%s %s" % (rng.choice(FAMILIES), rng.choice(TRADES))  # renamed
        if rng.random() < 0.2:
            name = rng.choice((name.upper(), name.lower()))
    row["name"] = name
    if rng.random() < 0.12:
        row.update(world.house(rng))
    for field, lost in (("uscc", 0.7), ("phone", 0.3), ("email", 0.5), ("website", 0.5), ("street", 0.25), ("postcode", 0.3), ("city", 0.1)):
        if rng.random() < lost:
            row[field] = ""
    if row["phone"] and rng.random() < 0.2:
        row["phone"] = world.line(rng) if rng.random() < 0.4 else row["phone"][:-2] + "%02d" % rng.randrange(100)
    if row["email"] and rng.random() < 0.5:
        row["email"] = "%s@%s" % (rng.choice("sales office contact jsmith m.weber".split()), row["email"].split("@")[1])
    return row


def near_firms(rng, world, row, chinese):
    """Firms that have much in common with one and are others."""
    name = bare_cn(row["name"]) if chinese else bare(row["name"])
    kind = rng.choices("branch sister namesake tenant".split(), (4, 3, 2, 2))[0]
    other = dict(row, uscc="", email=row["email"] if rng.random() < 0.3 else "")
    city = rng.choice(world.cities)[0]
    if kind == "branch":
        for city, _ in rng.sample(world.cities, rng.choice((1, 1, 3))):
            place = world.house(rng) if rng.random() < 0.7 else {}
            yield dict(dict(other, **place), phone=row["phone"] if rng.random() < 0.4 else world.line(rng),
                       name=row["name"] + rng.choice((city, "第%s" % rng.choice("一二三"))) + rng.choice(("分公司", "分公司", "分店", "办事处")) if chinese
                       else rng.choice(("%s %s Branch" % (row["name"], city), "%s - %s Office" % (name, city))))
    elif kind == "sister":
        yield dict(other, name=name[:4] + rng.choice(TRADES_CN) + "有限公司" if chinese else "%s %s %s" % (" ".join(name.split()[:2]), rng.choice(TRADES), rng.choice(FORMS)))
    elif kind == "namesake":
        yield dict(dict(other, **world.house(rng)), name=(city + name[2:] + "有限公司") if chinese else "%s %s" % (name, rng.choice(FORMS)), phone=world.line(rng), email="", website="")
    else:
        yield dict(other, name="%s%s%s有限公司" % (city, rng.choice(MEN_CN) + rng.choice(WOMEN_CN), rng.choice(TRADES_CN)) if chinese else "%s %s" % (rng.choice(FAMILIES), rng.choice(TRADES)),
                   phone=row["phone"] if rng.random() < 0.3 else world.line(rng), email="", website="")


def firms(rng, world, size):
    chinese = isinstance(world, Chinese)
    companies = rng.sample(read("companies_cn.csv.xz" if chinese else "companies_latin.csv.xz"), size)
    cluster = 0
    for company in companies:
        site = "%s.%s" % ("".join(rng.choice("bcdfghjklmnprstvz") + rng.choice("aeiou") for _ in range(rng.randrange(2, 5))), "cn" if chinese else "example")
        row = dict(world.house(rng), name=company["name"], phone=world.line(rng) if rng.random() < 0.8 else "", uscc=company.get("uscc", "") if rng.random() < 0.5 else "",
                   email="info@" + site if rng.random() < 0.5 else "", website="www." + site if rng.random() < 0.5 else "")
        known = [row] + (list(near_firms(rng, world, row, chinese)) if rng.random() < 0.25 else [])
        for firm in known:
            cluster += 1
            yield dict(firm, cluster_id=cluster)
            for _ in range(rng.choices((0, 1, 2), (60, 30, 10))[0]):
                yield dict(firm_again(rng, world, firm, chinese), cluster_id=cluster)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--size", type=int, default=4000, help="households or firms")
    parser.add_argument("set", choices=("persons", "persons_cn", "firms", "firms_cn"))
    options = parser.parse_args()
    rng = random.Random("%s %d" % (options.set, options.seed))
    world = Chinese() if options.set.endswith("_cn") else Latin()
    rows, fields = (list(persons(rng, world, options.size)), PERSON) if options.set.startswith("persons") else (list(firms(rng, world, options.size)), FIRM)
    rng.shuffle(rows)
    writer = csv.DictWriter(sys.stdout, ["id"] + fields + ["cluster_id"], lineterminator="\n", restval="")
    writer.writeheader()
    for i, row in enumerate(rows, 1):
        writer.writerow(dict(row, id=i))


if __name__ == "__main__":
    main()
